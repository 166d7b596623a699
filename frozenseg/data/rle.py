"""Run-length encoded masks as COCO has them, and what annotation files write as a "segmentation"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle_tools

from frozenseg.errors import UserInputError
from frozenseg.types import Size

Box = tuple[float, float, float, float]
"""(x, y, width, height) in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rle:
    """A run-length encoded mask in COCO's compressed form."""

    size: Size
    counts: str

    def as_coco(self) -> dict[str, Any]:
        """As pycocotools takes it."""
        return {"size": list(self.size), "counts": self.counts.encode()}


def encode_mask(mask: Any) -> Rle:
    """Run-length encodes a [h,w] bool mask, tensor or array."""
    encoded = rle_tools.encode(np.asfortranarray(np.asarray(mask).astype(np.uint8)))
    return Rle(size=(int(encoded["size"][0]), int(encoded["size"][1])), counts=encoded["counts"].decode())


def decode_mask(mask: Rle) -> NDArray[np.bool_]:
    """[h,w] bool."""
    decoded: NDArray[np.bool_] = rle_tools.decode(mask.as_coco()).astype(bool)
    return decoded


def box_of(mask: Rle) -> Box:
    """The box that just holds the mask."""
    x, y, width, height = (float(number) for number in rle_tools.toBbox(mask.as_coco()))
    return x, y, width, height


def area_of(mask: Rle) -> float:
    """Pixels of the mask."""
    return float(rle_tools.area(mask.as_coco()))


def to_rle(segmentation: Any, size: Size, place: str) -> Rle:
    """The mask of a COCO "segmentation": polygons, plain or compressed run lengths.

    Raises:
        UserInputError: none of these, or a mask of another size than its image.
    """
    height, width = size
    counts = segmentation.get("counts") if isinstance(segmentation, dict) else None
    try:
        if isinstance(segmentation, list) and segmentation and all(map(_is_polygon, segmentation)):
            encoded = rle_tools.merge(rle_tools.frPyObjects(segmentation, height, width))
        elif isinstance(counts, list):
            encoded = rle_tools.frPyObjects(segmentation, height, width)
        elif isinstance(counts, str):
            encoded = {"size": list(segmentation["size"]), "counts": counts.encode()}
        else:
            raise TypeError(f"{segmentation!r:.60}")
        found = (int(encoded["size"][0]), int(encoded["size"][1]))
        pixels = int(rle_tools.area(encoded))
    except (TypeError, KeyError, IndexError, ValueError, OverflowError) as error:
        raise UserInputError(f"{place}: expected polygons or run lengths as segmentation, found {error}") from None
    if found != size:
        raise UserInputError(f"{place}: expected a mask of its image's size {size}, found {found}")
    if pixels > height * width:
        raise UserInputError(f"{place}: expected a mask of at most {height * width} pixels, found {pixels}")
    return Rle(size=size, counts=encoded["counts"].decode())


def _is_polygon(points: Any) -> bool:
    return (
        isinstance(points, list)
        and len(points) >= 6
        and len(points) % 2 == 0
        and all(isinstance(number, int | float) for number in points)
    )

"""One labelled image, as every writer takes it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from frozenseg.types import Segment, SegmentationOutput, Size

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageQuality:
    """How sure the model is of an image.

    Fields: entropy: of the class ensemble over the queries that show something, in [0,1]; disagreement: 1 - how well
    SAM's masks repeat the decoder's, in [0,1], None where no SAM masks were made; num_dropped: segments that the score
    and area filters turned to void.
    """

    entropy: float
    disagreement: float | None
    num_dropped: int

    @property
    def uncertainty(self) -> float:
        """In [0,1]: the mean of what was measured."""
        return self.entropy if self.disagreement is None else (self.entropy + self.disagreement) / 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledImage:
    """Fields: number: of the image in the corpus, from 1: COCO's integer id; image_id: its text id, free of dots and
    slashes; file_name: as the corpus calls it; address: where the file lies; image_bytes: the original file; size;
    result: at that size; quality; semantic [h,w] contiguous category of every pixel, negative where none, or None when
    no format asks for it; thumbnail: WebP of the result over the image, empty when nobody asks for it."""

    number: int
    image_id: str
    file_name: str
    address: str
    image_bytes: bytes
    size: Size
    result: SegmentationOutput
    quality: ImageQuality
    semantic: npt.NDArray[np.int64] | None = None
    thumbnail: bytes = b""

    def masks(self) -> Iterator[tuple[Segment, Mask]]:
        """Each segment with its mask [h,w]."""
        pixels = self.result.segment_ids.cpu().numpy()
        for segment in self.result.segments:
            yield segment, pixels == segment.id


def part_name(number: int) -> str:
    return f"part-{number:06d}"


def mirrored(file_name: str, suffix: str) -> str:
    """The image's own path with another ending, for formats whose tools look for labels by the image's path. Nothing
    in it leads out of the folder it is written to, whatever a tar or table of others calls its images."""
    parts = [part for part in re.split(r"[/\\]+", file_name) if part not in ("", ".", "..")]
    stem, dot, _ = parts[-1].rpartition(".")
    safe = [re.sub(r"[:*?\"<>|\0]", "_", part) for part in (*parts[:-1], stem if dot else parts[-1])]
    return "/".join(safe) + suffix

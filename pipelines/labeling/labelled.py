"""One labelled image, as every writer takes it."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

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


@dataclass(frozen=True, slots=True)
class PackedMap:
    """A map of small whole numbers from -1, compressed: a part of large images is kept whole in memory, and its maps
    would be most of it."""

    data: bytes
    shape: tuple[int, int]
    dtype: str

    @classmethod
    def of(cls, values: npt.NDArray[np.integer]) -> PackedMap:
        """values [h,w], none below -1."""
        raised = values.astype(np.int64) + 1
        narrow = raised.astype(np.min_scalar_type(int(raised.max(initial=0))))
        # Long runs of equal values: the fastest level is as good as any.
        return cls(zlib.compress(narrow.tobytes(), 1), (values.shape[0], values.shape[1]), narrow.dtype.str)

    def values(self) -> npt.NDArray[np.int32]:
        """[h,w]."""
        raised = np.frombuffer(zlib.decompress(self.data), dtype=self.dtype).reshape(self.shape)
        return raised.astype(np.int32) - np.int32(1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledImage:
    """Fields: number: of the image in the corpus, from 1: COCO's integer id; image_id: its text id, free of dots and
    slashes; file_name: as the corpus calls it; address: where the file lies; image_bytes: the original file; size;
    segment_ids and segments: the panoptic result at that size; quality; semantic [h,w] contiguous category of every
    pixel, -1 where none, or None when no format asks for it; thumbnail: WebP of the result over the image, empty when
    nobody asks for it."""

    number: int
    image_id: str
    file_name: str
    address: str
    image_bytes: bytes
    size: Size
    segment_ids: PackedMap
    segments: tuple[Segment, ...]
    quality: ImageQuality
    semantic: PackedMap | None = None
    thumbnail: bytes = b""

    def result(self) -> SegmentationOutput:
        """The panoptic result, unpacked."""
        return SegmentationOutput(segment_ids=torch.from_numpy(self.segment_ids.values()), segments=self.segments)

    def masks(self) -> Iterator[tuple[Segment, Mask]]:
        """Each segment with its mask [h,w]."""
        pixels = self.segment_ids.values()
        for segment in self.segments:
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

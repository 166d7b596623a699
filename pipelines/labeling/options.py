"""How to label."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from frozenseg.errors import UserInputError
from frozenseg.types import Vocabulary
from pipelines.labeling.filters import Limit, SegmentFilter
from pipelines.labeling.formats import FORMATS, LabelFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelOptions:
    """How to label.

    Fields: to: folder or fsspec address; vocabulary: published name, file or text; formats; options: of inference, by
    name, over the model folder's; min_score: segments below it become void; min_area: smaller segments too, in pixels;
    filters: the same for single categories (`SegmentFilter.parse`); images_per_part: what is done again at most when
    something dies; max_error_share: of images that cannot be read; polygon_tolerance: in pixels, of formats with
    polygons; review: thumbnails and `review.html`; review_images: it shows the least certain so many; queue_length: of
    `review_queue.parquet`.
    """

    to: str
    vocabulary: str
    formats: tuple[LabelFormat, ...] = ("coco-panoptic",)
    options: dict[str, Any] = field(default_factory=dict)
    min_score: float = 0.0
    min_area: int = 0
    filters: str = ""
    images_per_part: int = 64
    max_error_share: float = 0.01
    polygon_tolerance: float = 1.0
    review: bool = True
    review_images: int = 100_000
    queue_length: int = 1000

    def __post_init__(self) -> None:
        unknown = sorted(set(self.formats) - set(FORMATS))
        if unknown or not self.formats:
            raise UserInputError(
                f"formats: expected some of {', '.join(FORMATS)}; found {', '.join(unknown) or 'none'}"
            )

    def segment_filter(self, vocabulary: Vocabulary) -> SegmentFilter:
        """Raises UserInputError."""
        return SegmentFilter.parse(self.filters, vocabulary, Limit(min_score=self.min_score, min_area=self.min_area))

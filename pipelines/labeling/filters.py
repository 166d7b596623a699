"""Which segments count: the smallest score and area, for all categories and for single ones."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field

import torch
from torch import Tensor

from frozenseg.errors import UserInputError
from frozenseg.types import Segment, SegmentationOutput, Vocabulary

_ENTRY = re.compile(r"(?P<name>.+?)\s+(?P<rules>(?:(?:score|area)\s*=\s*\S+\s*)+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """min_score in [0,1]; min_area in pixels. What is less becomes void."""

    min_score: float = 0.0
    min_area: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentFilter:
    """everywhere: for all categories; by_category: for a contiguous category id, in place of the former."""

    everywhere: Limit = field(default_factory=Limit)
    by_category: dict[int, Limit] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, vocabulary: Vocabulary, everywhere: Limit) -> SegmentFilter:
        """Reads `dog score=0.5 area=200; sky area=1000`. What a category does not say it has from `everywhere`.

        Raises:
            UserInputError: a category that is not in the vocabulary, or a rule that cannot be read.
        """
        numbers = {name: i for i, category in enumerate(vocabulary.categories) for name in category.names}
        by_category: dict[int, Limit] = {}
        for entry in filter(None, (part.strip() for part in text.split(";"))):
            match = _ENTRY.fullmatch(entry)
            if match is None:
                raise UserInputError(f"filters: expected NAME score=NUMBER area=PIXELS, found {entry!r}")
            if match["name"] not in numbers:
                raise UserInputError(f"filters: expected a category of the vocabulary, found {match['name']!r}")
            rules = dict(re.findall(r"(score|area)\s*=\s*(\S+)", match["rules"]))
            try:
                limit = Limit(
                    min_score=float(rules.get("score", everywhere.min_score)),
                    min_area=int(rules.get("area", everywhere.min_area)),
                )
            except ValueError:
                raise UserInputError(f"filters: expected numbers, found {entry!r}") from None
            by_category[numbers[match["name"]]] = limit
        return cls(everywhere=everywhere, by_category=by_category)

    def limit(self, category_id: int) -> Limit:
        return self.by_category.get(category_id, self.everywhere)

    def passes(self, segment: Segment) -> bool:
        limit = self.limit(segment.category_id)
        return segment.score >= limit.min_score and segment.area >= limit.min_area

    def on_segments(self, result: SegmentationOutput) -> SegmentationOutput:
        """The result on the CPU, the pixels of segments that do not pass void; the ids of the others stay."""
        dropped = [segment.id for segment in result.segments if not self.passes(segment)]
        segment_ids = result.segment_ids.cpu()
        if dropped:
            gone = torch.isin(segment_ids, torch.tensor(dropped, dtype=torch.int32))
            segment_ids = segment_ids.masked_fill(gone, 0)
        return dataclasses.replace(
            result, segment_ids=segment_ids, segments=tuple(s for s in result.segments if self.passes(s))
        )

    def on_pixels(self, labels: Tensor, scores: Tensor) -> Tensor:
        """[h,w] int64 categories and their float32 scores -> the categories, -1 where the pixel scores less than its
        category must, or where all the image's pixels of that category are fewer than its smallest area."""
        labels = labels.clone()
        for category in torch.unique(labels).tolist():
            limit, pixels = self.limit(category), labels == category
            labels[pixels & (scores < limit.min_score)] = -1
            if int(pixels.sum()) < limit.min_area:
                labels[pixels] = -1
        return labels

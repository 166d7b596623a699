"""Panoptic quality: how many segments are found (RQ), how well (SQ), and their product (PQ).

Source: Kirillov et al., "Panoptic Segmentation", equation 1 and section 4; crowd and void rules of the COCO panoptic
task: a prediction mostly on void, or on the crowd of its category, is no false positive; a missed crowd is no miss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from frozenseg.data.panoptic_png import positions, runs
from frozenseg.errors import UserInputError
from frozenseg.evaluation.bootstrap import Interval, bootstrap_interval
from frozenseg.evaluation.counts import Bool, CountTable, Float, as_mask, divide, mean_of_known
from frozenseg.types import PanopticAnnotation, SegmentationOutput, Vocabulary

IOU, TRUE_POSITIVE, FALSE_POSITIVE, FALSE_NEGATIVE = range(4)
Group = Literal["all", "things", "stuff", "seen", "unseen"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Means over the categories that occur in truth or prediction; nan when none does. All in [0,1]."""

    pq: float
    sq: float
    rq: float
    num_categories: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryQuality:
    """One category's quality and counts; nan where it occurs neither in truth nor in prediction."""

    name: str
    pq: float
    sq: float
    rq: float
    iou_sum: float
    true_positives: int
    false_positives: int
    false_negatives: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PanopticScores:
    """`seen` and `unseen` are None unless the metric was told which categories training saw."""

    all: Quality
    things: Quality
    stuff: Quality
    seen: Quality | None
    unseen: Quality | None
    per_category: tuple[CategoryQuality, ...]
    num_images: int


class PanopticQuality:
    """Incremental, mergeable PQ.

    Args:
        vocabulary: names the contiguous ids of truth and prediction.
        seen: [K] bool, categories of the training vocabulary, for scores apart.
    """

    def __init__(self, vocabulary: Vocabulary, seen: Any = None) -> None:
        self.vocabulary = vocabulary
        self.seen: Bool | None = None if seen is None else as_mask(seen, len(vocabulary))
        self.counts = CountTable(len(vocabulary), 4)

    def update(self, prediction: SegmentationOutput, truth: PanopticAnnotation, image_id: str = "") -> None:
        """Counts one image. With an `image_id`, counting the same image again is refused.

        Raises:
            UserInputError: sizes differ, the prediction's map holds an id that its segments don't name, or names a
                segment that the map doesn't hold.
        """
        categories, values = image_counts(prediction, truth, len(self.vocabulary), image_id)
        self.counts.add(image_id, categories, values)

    def merge(self, other: PanopticQuality) -> None:
        """Takes in what another worker counted."""
        self.counts.merge(other.counts)

    def state(self) -> dict[str, Any]:
        """The counts so far, as JSON can hold them; `load_state` takes them back."""
        return self.counts.state()

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes in the images of a saved state."""
        self.counts.merge(CountTable.from_state(state))

    def compute(self) -> PanopticScores:
        """The scores of all images so far."""
        totals = self.counts.totals()
        pq, sq, rq = _qualities(totals)
        per_category = tuple(
            CategoryQuality(
                name=category.name,
                pq=float(pq[index]),
                sq=float(sq[index]),
                rq=float(rq[index]),
                iou_sum=float(totals[index, IOU]),
                true_positives=int(totals[index, TRUE_POSITIVE]),
                false_positives=int(totals[index, FALSE_POSITIVE]),
                false_negatives=int(totals[index, FALSE_NEGATIVE]),
            )
            for index, category in enumerate(self.vocabulary.categories)
        )
        return PanopticScores(
            all=self._mean(totals, "all"),
            things=self._mean(totals, "things"),
            stuff=self._mean(totals, "stuff"),
            seen=None if self.seen is None else self._mean(totals, "seen"),
            unseen=None if self.seen is None else self._mean(totals, "unseen"),
            per_category=per_category,
            num_images=self.counts.num_images,
        )

    def interval(self, group: Group = "all", *, seed: int = 0, num_resamples: int = 1000) -> Interval:
        """95 % bootstrap interval of PQ over images."""
        members = self._members(group)
        return bootstrap_interval(
            self.counts,
            lambda totals: mean_of_known(_qualities(totals)[0][..., members]),
            seed,
            num_resamples=num_resamples,
        )

    def _members(self, group: Group) -> Bool:
        is_thing = self.vocabulary.is_thing.numpy()
        if group == "things":
            return is_thing
        if group == "stuff":
            return ~is_thing
        if group == "all":
            return np.ones(len(self.vocabulary), dtype=bool)
        if self.seen is None:
            raise UserInputError(f"panoptic quality of {group} categories: expected a mask of seen ones, found none")
        return self.seen if group == "seen" else ~self.seen

    def _mean(self, totals: Float, group: Group) -> Quality:
        pq, sq, rq = (values[self._members(group)] for values in _qualities(totals))
        pq, sq, rq = (values[~np.isnan(values)] for values in (pq, sq, rq))
        return Quality(
            # Added up one by one as the reference evaluator does: equal to the last digit.
            pq=sum(pq.tolist()) / len(pq) if len(pq) else math.nan,
            sq=sum(sq.tolist()) / len(pq) if len(pq) else math.nan,
            rq=sum(rq.tolist()) / len(pq) if len(pq) else math.nan,
            num_categories=len(pq),
        )


def _qualities(totals: Float) -> tuple[Float, Float, Float]:
    """PQ, SQ and RQ [..., K] of counts [..., K, 4]; nan for categories that don't occur; SQ 0 without a match."""
    iou, matched = totals[..., IOU], totals[..., TRUE_POSITIVE]
    occurring = matched + 0.5 * totals[..., FALSE_POSITIVE] + 0.5 * totals[..., FALSE_NEGATIVE]
    sq = np.where(occurring > 0, np.nan_to_num(divide(iou, matched)), np.nan)
    return divide(iou, occurring), sq, divide(matched, occurring)


def image_counts(
    prediction: SegmentationOutput, truth: PanopticAnnotation, num_categories: int, image_id: str
) -> tuple[NDArray[np.int64], Float]:
    """Categories [n] of one image and their IoU sum, matches, false positives and false negatives [n,4]."""
    predicted_map, true_map = prediction.segment_ids.numpy(), truth.segment_ids.numpy()
    if predicted_map.shape != true_map.shape:
        raise UserInputError(
            f"image {image_id!r}: expected a prediction of the truth's size {true_map.shape}, "
            f"found {predicted_map.shape}"
        )
    starts, lengths = runs(true_map, predicted_map)
    true_index = _index(true_map.reshape(-1)[starts], [s.id for s in truth.segments], "truth", image_id)
    predicted_index = _index(
        predicted_map.reshape(-1)[starts], [s.id for s in prediction.segments], "prediction", image_id
    )
    num_true, num_predicted = len(truth.segments), len(prediction.segments)
    # Row and column 0 are void; overlap[g, p] in pixels.
    pair = true_index * (num_predicted + 1) + predicted_index
    counted = np.bincount(pair, weights=lengths, minlength=(num_true + 1) * (num_predicted + 1))
    overlap: Float = counted.reshape(num_true + 1, num_predicted + 1).astype(np.float64)
    true_area, predicted_area = overlap.sum(1)[1:], overlap.sum(0)[1:]
    if not predicted_area.all():
        absent = prediction.segments[int(np.argmin(predicted_area))].id
        raise UserInputError(f"image {image_id!r}: prediction: expected pixels of segment {absent}, found none")

    true_category = np.array([s.category_id for s in truth.segments], dtype=np.int64)
    predicted_category = np.array([s.category_id for s in prediction.segments], dtype=np.int64)
    is_crowd = np.array([s.is_crowd for s in truth.segments], dtype=bool)
    inside: Float = overlap[1:, 1:]
    union = true_area[:, None] + predicted_area[None, :] - inside - overlap[0, 1:][None, :]
    may_match = (true_category[:, None] == predicted_category[None, :]) & ~is_crowd[:, None]
    iou = np.where(may_match, divide(inside, union), 0.0)
    # Segments of one map don't overlap, so over one half at most one partner is left for either side.
    matched_true, matched_predicted = np.nonzero(iou > 0.5)

    missed = ~is_crowd
    missed[matched_true] = False
    ignorable = overlap[0, 1:] + _on_crowd(inside, true_category, predicted_category, is_crowd)
    invented = ignorable / predicted_area <= 0.5
    invented[matched_predicted] = False
    values = np.zeros((num_categories, 4))
    match_category, match_iou = true_category[matched_true], iou[matched_true, matched_predicted]
    for category in np.unique(match_category):
        values[category, IOU] = math.fsum(match_iou[match_category == category].tolist())
    values[:, TRUE_POSITIVE] = np.bincount(match_category, minlength=num_categories)
    values[:, FALSE_POSITIVE] = np.bincount(predicted_category[invented], minlength=num_categories)
    values[:, FALSE_NEGATIVE] = np.bincount(true_category[missed], minlength=num_categories)
    present = np.flatnonzero(values[:, 1:].any(axis=1))
    return present, values[present]


def _index(values: NDArray[np.int32], ids: list[int], what: str, image_id: str) -> NDArray[np.intp]:
    """1 + position in `ids` of each value, 0 for void."""
    known = np.array([0, *ids], dtype=np.int32)
    found = positions(values, known)
    strangers = known[found] != values
    if strangers.any():
        raise UserInputError(
            f"image {image_id!r}: {what}: expected only ids of its {len(ids)} segments, "
            f"found {int(values[strangers][0])} in the map"
        )
    return found


def _on_crowd(
    inside: Float, true_category: NDArray[np.int64], predicted_category: NDArray[np.int64], is_crowd: Bool
) -> Float:
    """[P] pixels of each predicted segment on the crowd of its category (the last one, as the reference has it)."""
    pixels = np.zeros(len(predicted_category))
    for index in np.flatnonzero(is_crowd):
        same = predicted_category == true_category[index]
        pixels[same] = inside[index, same]
    return pixels

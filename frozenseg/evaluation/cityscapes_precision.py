"""Average precision by the Cityscapes protocol: instances of at least 100 pixels, groups and void ignored.

Source: the instance task of the Cityscapes benchmark as its evaluation scripts compute it; equal to them to the last
digit but for the order of floating-point sums (tests/evaluation/test_instance_protocols.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as rle_tools

from frozenseg.data.rle import Rle, area_of
from frozenseg.evaluation.counts import Bool, Float, mean_of_known
from frozenseg.evaluation.instances import ImageInstances, InstanceMetric, mask_of

OVERLAPS = np.arange(0.5, 1.0, 0.05)
MIN_PIXELS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class CityscapesScores:
    """ap: the mean over IoU 0.50 to 0.95, ap50: at 0.50; both are means over the things of the vocabulary that the
    truth holds, nan when it holds none."""

    ap: float
    ap50: float
    ap_seen: float | None
    ap_unseen: float | None
    ap_per_category: tuple[tuple[str, float], ...]
    num_images: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Matches:
    """One category in one image. Shape legend: G instances that count, P predictions. iou [G,P]; ignorable [P] the
    share of a prediction on void, groups and instances too small to count; best_other [P] its highest IoU with one of
    those; scores [P]."""

    iou: Float
    best_other: Float
    ignorable: Float
    scores: Float


class CityscapesPrecision(InstanceMetric):
    """Incremental, mergeable AP of masks by the Cityscapes protocol. Only things of the vocabulary have instances."""

    def compute(self) -> CityscapesScores:
        """The scores of all images so far."""
        table = np.full((len(self.vocabulary), len(OVERLAPS)), np.nan)
        images = self.ordered()
        for category in np.flatnonzero(self.vocabulary.is_thing.numpy()):
            matches = [_matches(image, int(category)) for image in images]
            table[category] = [average_precision(matches, overlap) for overlap in OVERLAPS]
        per_category = mean_of_known(table)

        def mean(members: Bool) -> float:
            return float(mean_of_known(table[members].reshape(-1)))

        return CityscapesScores(
            ap=float(mean_of_known(table.reshape(-1))),
            ap50=float(mean_of_known(table[:, 0])),
            ap_seen=None if self.seen is None else mean(self.seen),
            ap_unseen=None if self.seen is None else mean(~self.seen),
            ap_per_category=tuple(
                (category.name, float(value))
                for category, value in zip(self.vocabulary.categories, per_category, strict=True)
            ),
            num_images=len(images),
        )


def _matches(image: ImageInstances, category: int) -> _Matches:
    objects = [one for one in image.truth.objects if one.category_id == category]
    found = [one for one in image.detections if one.category_id == category]
    predicted = [(mask_of(one.mask), one.score) for one in found]
    predicted = [(mask, score) for mask, score in predicted if area_of(mask)]
    masks = [mask for mask, _ in predicted]
    areas = np.array([area_of(mask) for mask in masks])
    true_areas = np.array([area_of(mask_of(one.mask)) for one in objects])
    inside = overlaps([mask_of(one.mask) for one in objects], masks)
    iou = inside / (true_areas[:, None] + areas[None, :] - inside)
    is_group = np.array([one.is_crowd for one in objects], dtype=bool)
    is_small = true_areas < MIN_PIXELS
    counts = ~is_group & ~is_small
    void = np.zeros(len(masks)) if image.truth.void is None else overlaps([image.truth.void], masks)[0]
    # A small group is both, and its pixels are counted twice, as in the scripts.
    ignored = void + inside[is_group].sum(0) + inside[is_small].sum(0)
    return _Matches(
        iou=iou[counts],
        best_other=iou[~counts].max(0, initial=0.0),
        ignorable=ignored / areas if len(masks) else ignored,
        scores=np.array([score for _, score in predicted], dtype=np.float64),
    )


def overlaps(first: Sequence[Rle], second: Sequence[Rle]) -> Float:
    """[N,M] pixels that each of the first masks shares with each of the second."""
    if not first or not second:
        return np.zeros((len(first), len(second)))
    areas = np.array([area_of(mask) for mask in first])
    # "Crowd" overlap is intersection over the area of the first argument: a division that rounding undoes.
    share = rle_tools.iou([m.as_coco() for m in first], [m.as_coco() for m in second], [1] * len(second))
    pixels: Float = np.rint(np.asarray(share, dtype=np.float64) * areas[:, None])
    return pixels


def average_precision(matches: Sequence[_Matches], overlap: float) -> float:
    """Of one category over all images at one IoU; nan without an instance that counts, 0 without a prediction."""
    scores: list[Float] = []
    is_true: list[Bool] = []
    num_missed = num_true = num_predicted = 0
    for match in matches:
        hits = match.iou > overlap
        num_true += len(hits)
        num_predicted += len(match.scores)
        for of_instance in hits:
            claimed = np.sort(match.scores[of_instance])
            num_missed += not len(claimed)
            # The most confident prediction of an instance is right, the others are wrong.
            scores.append(claimed)
            is_true.append(np.arange(len(claimed)) == len(claimed) - 1)
        unmatched = ~hits.any(0) & (match.best_other <= overlap) & (match.ignorable <= overlap)
        scores.append(match.scores[unmatched])
        is_true.append(np.zeros(int(unmatched.sum()), dtype=bool))
    if not num_true:
        return float("nan")
    if not num_predicted:
        return 0.0
    return _area_under_curve(np.concatenate(scores), np.concatenate(is_true), num_missed)


def _area_under_curve(scores: Float, is_true: Bool, num_missed: int) -> float:
    """The precision of each threshold, weighted by half the recall between its neighbours."""
    if not len(scores):
        return 0.0
    order = np.argsort(scores, kind="stable")
    true_below = np.concatenate([[0], np.cumsum(is_true[order])])
    _, first = np.unique(scores[order], return_index=True)
    true_positives = true_below[-1] - true_below[first]
    precision = np.concatenate([true_positives / (len(scores) - first), [1.0]])
    recall = np.concatenate([true_positives / (true_below[-1] + num_missed), [0.0]])
    extended: Any = np.concatenate([recall[:1], recall, [0.0]])
    return float(np.dot(precision, (extended[:-2] - extended[2:]) / 2))

"""Semantic scores: mIoU, frequency-weighted IoU, pixel accuracy and mean accuracy.

Only categories present in the truth enter the means; predictions on ignored pixels don't count; FWIoU weights each
category by its share of the truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from frozenseg.data.panoptic_png import runs
from frozenseg.errors import UserInputError
from frozenseg.evaluation.bootstrap import Interval, bootstrap_interval
from frozenseg.evaluation.counts import Bool, CountTable, Float, as_mask, divide, mean_of_known
from frozenseg.types import Vocabulary

CORRECT, TRUE_PIXELS, PREDICTED_PIXELS = range(3)
LabelMap = Tensor | NDArray[np.integer]


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryIoU:
    """iou and accuracy are nan for a category that the truth doesn't hold."""

    name: str
    iou: float
    accuracy: float
    true_pixels: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticScores:
    """All in [0,1]; nan with no labelled pixel. miou_seen and miou_unseen are None unless the metric was told which
    categories training saw."""

    miou: float
    fwiou: float
    pixel_accuracy: float
    mean_accuracy: float
    miou_seen: float | None
    miou_unseen: float | None
    num_categories: int
    per_category: tuple[CategoryIoU, ...]
    num_images: int


class SemanticIoU:
    """Incremental, mergeable semantic scores.

    Args:
        vocabulary: names the contiguous ids.
        seen: [K] bool, categories of the training vocabulary.
    """

    def __init__(self, vocabulary: Vocabulary, seen: Any = None) -> None:
        self.vocabulary = vocabulary
        self.seen: Bool | None = None if seen is None else as_mask(seen, len(vocabulary))
        self.counts = CountTable(len(vocabulary), 3)

    def update(self, prediction: LabelMap, truth: LabelMap, image_id: str = "") -> None:
        """Counts one image. Both maps [h,w] of contiguous ids; what lies outside 0..K-1 is ignored in the truth and
        wrong in the prediction.

        Raises:
            UserInputError: sizes differ, or `image_id` was counted already.
        """
        predicted, true = np.asarray(prediction), np.asarray(truth)
        if predicted.shape != true.shape:
            raise UserInputError(
                f"image {image_id!r}: expected a label map of the truth's size {true.shape}, found {predicted.shape}"
            )
        num = len(self.vocabulary)
        starts, lengths = runs(true, predicted)
        true, predicted = true.reshape(-1)[starts], predicted.reshape(-1)[starts]
        labelled = (true >= 0) & (true < num)
        true, predicted, lengths = true[labelled], predicted[labelled], lengths[labelled]
        values = np.zeros((num, 3))
        right = true == predicted
        known = (predicted >= 0) & (predicted < num)
        values[:, CORRECT] = np.bincount(true[right], weights=lengths[right], minlength=num)
        values[:, TRUE_PIXELS] = np.bincount(true, weights=lengths, minlength=num)
        values[:, PREDICTED_PIXELS] = np.bincount(predicted[known], weights=lengths[known], minlength=num)
        present = np.flatnonzero(values.any(axis=1))
        self.counts.add(image_id, present, values[present])

    def merge(self, other: SemanticIoU) -> None:
        """Takes in what another worker counted."""
        self.counts.merge(other.counts)

    def state(self) -> dict[str, Any]:
        """The counts so far, as JSON can hold them; `load_state` takes them back."""
        return self.counts.state()

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes in the images of a saved state."""
        self.counts.merge(CountTable.from_state(state))

    def compute(self) -> SemanticScores:
        """The scores of all images so far."""
        totals = self.counts.totals()
        iou, true_pixels = _iou(totals), totals[:, TRUE_PIXELS]
        accuracy = divide(totals[:, CORRECT], true_pixels)
        share = divide(true_pixels, true_pixels.sum())
        return SemanticScores(
            miou=float(mean_of_known(iou)),
            fwiou=float((np.nan_to_num(iou) * share).sum()),
            pixel_accuracy=float(divide(totals[:, CORRECT].sum(), true_pixels.sum())),
            mean_accuracy=float(mean_of_known(accuracy)),
            miou_seen=None if self.seen is None else float(mean_of_known(iou[self.seen])),
            miou_unseen=None if self.seen is None else float(mean_of_known(iou[~self.seen])),
            num_categories=int((true_pixels > 0).sum()),
            per_category=tuple(
                CategoryIoU(
                    name=category.name,
                    iou=float(iou[index]),
                    accuracy=float(accuracy[index]),
                    true_pixels=int(true_pixels[index]),
                )
                for index, category in enumerate(self.vocabulary.categories)
            ),
            num_images=self.counts.num_images,
        )

    def interval(
        self, group: Literal["all", "seen", "unseen"] = "all", *, seed: int = 0, num_resamples: int = 1000
    ) -> Interval:
        """95 % bootstrap interval of the mIoU over images."""
        if group == "all":
            members = np.ones(len(self.vocabulary), dtype=bool)
        elif self.seen is None:
            raise UserInputError(f"mIoU of {group} categories: expected a mask of seen ones, found none")
        else:
            members = self.seen if group == "seen" else ~self.seen
        return bootstrap_interval(
            self.counts, lambda totals: mean_of_known(_iou(totals)[..., members]), seed, num_resamples=num_resamples
        )


def _iou(totals: Float) -> Float:
    """[..., K]; nan for categories that the truth doesn't hold."""
    union = totals[..., TRUE_PIXELS] + totals[..., PREDICTED_PIXELS] - totals[..., CORRECT]
    return np.where(totals[..., TRUE_PIXELS] > 0, divide(totals[..., CORRECT], union), np.nan)

"""Do class-agnostic mask proposals cover the regions of an image, whatever they are called?

A region is one semantic category present in an image. It is recalled at a threshold when any proposal has an IoU
strictly above it. Counts are pooled over the data set. Ignored pixels belong to no region but to the union.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from frozenseg.errors import UserInputError
from frozenseg.evaluation.bootstrap import Interval, bootstrap_interval
from frozenseg.evaluation.counts import Bool, CountTable, Float, as_mask, divide
from frozenseg.evaluation.semantic_iou import LabelMap
from frozenseg.types import Vocabulary

THRESHOLDS = (0.5, 0.75, 0.9)
PROPOSALS_AT_ONCE = 64  # Bounds the floating-point copy of the masks.


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """Of `num_regions` regions, `recalled[i]` at `thresholds[i]`; `recall` in [0,1], nan without a region."""

    thresholds: tuple[float, ...]
    recalled: tuple[int, ...]
    num_regions: int

    @property
    def recall(self) -> tuple[float, ...]:
        return tuple(count / self.num_regions if self.num_regions else float("nan") for count in self.recalled)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallScores:
    """`seen` and `unseen` are None unless the metric was told which categories training saw."""

    all: Recall
    seen: Recall | None
    unseen: Recall | None
    num_images: int


class ProposalRecall:
    """Incremental, mergeable recall of mask proposals.

    Args:
        vocabulary: names the contiguous ids of the truth.
        seen: [K] bool, categories of the training vocabulary.
    """

    def __init__(self, vocabulary: Vocabulary, seen: Any = None) -> None:
        self.vocabulary = vocabulary
        self.seen: Bool | None = None if seen is None else as_mask(seen, len(vocabulary))
        # One row per region: 1, and the IoU of its best proposal. Thresholds come later, so curves need no second run.
        self.counts = CountTable(len(vocabulary), 2)

    def update(self, proposals: Tensor, truth: LabelMap, image_id: str = "") -> None:
        """Counts one image: proposals [Q,h,w] bool at the truth's size, truth [h,w] contiguous ids (others ignored).

        Raises:
            UserInputError: sizes differ, or `image_id` was counted already.
        """
        labels = np.asarray(truth)
        if proposals.ndim != 3 or tuple(proposals.shape[1:]) != labels.shape:
            raise UserInputError(
                f"image {image_id!r}: expected proposals of the truth's size {labels.shape}, "
                f"found {tuple(proposals.shape)}"
            )
        present = np.unique(labels)
        present = present[(present >= 0) & (present < len(self.vocabulary))].astype(np.int64)
        best = _best_iou(proposals, labels, present)
        self.counts.add(image_id, present, np.stack([np.ones(len(present)), best], axis=1))

    def merge(self, other: ProposalRecall) -> None:
        """Takes in what another worker counted."""
        self.counts.merge(other.counts)

    def state(self) -> dict[str, Any]:
        """The counts so far, as JSON can hold them; `load_state` takes them back."""
        return self.counts.state()

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes in the images of a saved state."""
        self.counts.merge(CountTable.from_state(state))

    def compute(self, thresholds: Sequence[float] = THRESHOLDS) -> RecallScores:
        """Recall at the thresholds; pass a fine grid for a curve."""
        _, categories, values = self.counts.rows()

        def recall(members: Bool) -> Recall:
            best = values[members[categories], 1]
            return Recall(
                thresholds=tuple(thresholds),
                recalled=tuple(int((best > threshold).sum()) for threshold in thresholds),
                num_regions=len(best),
            )

        return RecallScores(
            all=recall(np.ones(len(self.vocabulary), dtype=bool)),
            seen=None if self.seen is None else recall(self.seen),
            unseen=None if self.seen is None else recall(~self.seen),
            num_images=self.counts.num_images,
        )

    def interval(
        self,
        group: Literal["all", "seen", "unseen"] = "all",
        *,
        threshold: float = 0.5,
        seed: int = 0,
        num_resamples: int = 1000,
    ) -> Interval:
        """95 % bootstrap interval over images of the recall at one threshold."""
        if group == "all":
            members = np.ones(len(self.vocabulary), dtype=bool)
        elif self.seen is None:
            raise UserInputError(f"recall of {group} categories: expected a mask of seen ones, found none")
        else:
            members = self.seen if group == "seen" else ~self.seen
        at_threshold = CountTable.from_state(self.counts.state())
        at_threshold.binarise(1, threshold)

        def statistic(totals: Float) -> Float:
            return divide(totals[..., members, 1].sum(-1), totals[..., members, 0].sum(-1))

        return bootstrap_interval(at_threshold, statistic, seed, num_resamples=num_resamples)


def _best_iou(proposals: Tensor, labels: np.ndarray[Any, Any], present: np.ndarray[Any, Any]) -> Float:
    """[n] highest IoU of any proposal with each region; 0 without proposals."""
    flat = proposals.reshape(proposals.shape[0], labels.size)
    if len(present) == 0 or flat.shape[0] == 0:
        return np.zeros(len(present))
    regions = torch.from_numpy(labels.reshape(-1)[:, None] == present[None, :])
    # float32 counts pixels exactly up to 2^24; larger images are counted in float64.
    dtype = torch.float32 if labels.size < 2**24 else torch.float64
    region_matrix = regions.to(dtype)
    region_area = regions.sum(0).double()
    best = torch.zeros(len(present), dtype=torch.float64)
    for chunk in torch.split(flat, PROPOSALS_AT_ONCE):
        inside = (chunk.to(dtype) @ region_matrix).double()
        union = chunk.sum(1).double()[:, None] + region_area[None, :] - inside
        best = torch.maximum(best, (inside / union).amax(0))
    return best.numpy()

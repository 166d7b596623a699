"""The loss's random points, drawn ahead of the arithmetic in the published order so that the arithmetic can be batched.

Order, for each output (final first, then the auxiliary ones from the first on): for each image the matcher's points
[1,P,2], also when the image has no target; then, for all matched masks of the batch together, the oversampled points
[n, int(oversample P), 2] and the random rest [n, P - int(importance P), 2]. Source: parity/README, "Random numbers".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PointDraws:
    """Points of one output, (x, y) in [0,1]: matcher [B,P,2]; oversampled [n,3P,2]; rest [n,P/4,2]."""

    matcher: Tensor
    oversampled: Tensor
    rest: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class PointPlan:
    """How many points, and how they are chosen. Source: FACTS, "Hyper-parameters"."""

    num_points: int = 12544
    oversample: float = 3.0
    importance: float = 0.75

    @property
    def num_oversampled(self) -> int:
        return int(self.oversample * self.num_points)

    @property
    def num_uncertain(self) -> int:
        return int(self.importance * self.num_points)

    def draw(self, num_images: int, num_matched: int, device: torch.device) -> PointDraws:
        """Draws one output's points from torch's default generator of `device`."""
        matcher = [torch.rand(1, self.num_points, 2, device=device) for _ in range(num_images)]
        oversampled = torch.rand(num_matched, self.num_oversampled, 2, device=device)
        rest = torch.rand(num_matched, self.num_points - self.num_uncertain, 2, device=device)
        return PointDraws(matcher=torch.cat(matcher), oversampled=oversampled, rest=rest)

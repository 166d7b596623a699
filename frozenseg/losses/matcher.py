"""Hungarian matching of queries to target masks on sampled points.

Shape legend: L outputs, B images, Q queries, K categories, N targets of an image, P points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from frozenseg.losses.points import sample_shared


@dataclass(frozen=True, slots=True, kw_only=True)
class LossWeights:
    """Weights of the class, mask and dice terms, in matching and in the loss alike. Source: FACTS."""

    class_: float = 2.0
    mask: float = 5.0
    dice: float = 5.0
    no_object: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Match:
    """One output, one image: query [n] int64 ascending and the target [n] int64 that each is matched to."""

    query: Tensor
    target: Tensor


def cost_matrix(
    class_logits: Tensor, mask_logits: Tensor, truth: Tensor, category_ids: Tensor, points: Tensor, weights: LossWeights
) -> Tensor:
    """Cost of giving target n to query q.

    Args: class_logits [Q,K+1]; mask_logits [Q,h,w]; truth [N,P], the targets at the points; category_ids [N]; points
    [P,2] in [0,1].
    Returns: [Q,N] float32: class -p; BCE as the mean over points; dice 1 - (2 s.y + 1)/(s + y + 1).
    Source: MODEL, "Loss".
    """
    sampled = sample_shared(mask_logits.float(), points)
    # softplus(-x) y + softplus(x) (1 - y) = softplus(x) - x y: one softplus and one product, not two of each.
    mask_cost = (F.softplus(sampled).sum(1)[:, None] - sampled @ truth.t()) / points.shape[0]
    probabilities = sampled.sigmoid_()
    overlap = probabilities @ truth.t()
    dice_cost = 1 - (2 * overlap + 1) / (probabilities.sum(1)[:, None] + truth.sum(1)[None] + 1)
    class_cost = -class_logits.float().softmax(-1)[:, category_ids]
    return weights.mask * mask_cost + weights.class_ * class_cost + weights.dice * dice_cost


def assign(costs: Sequence[Tensor]) -> list[Match]:
    """Least-cost assignments of cost matrices [Q,N_i], fetched from the device in one transfer.

    Non-finite costs (a diverged step) count as very large, so that the loss comes out non-finite and the caller's
    alert sees it, and no exception hides the step.
    """
    if not costs:
        return []
    device = costs[0].device
    flat = torch.cat([cost.reshape(-1) for cost in costs]).nan_to_num(nan=1e10, posinf=1e10, neginf=-1e10).cpu()
    matches = []
    for cost, values in zip(costs, torch.split(flat, [cost.numel() for cost in costs]), strict=True):
        query, target = linear_sum_assignment(values.view(cost.shape).numpy())
        matches.append(
            Match(query=torch.as_tensor(query, device=device), target=torch.as_tensor(target, device=device))
        )
    return matches

"""The plain form of matching and losses: one matching per image and output, targets as float maps, `grid_sample`.

Same random draws and same results as `frozenseg.losses`; this is what benchmarks/losses.py compares with.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from frozenseg.types import DecoderOutput, PanopticTarget

CLASS, MASK, DICE, NO_OBJECT = 2.0, 5.0, 5.0, 0.1


def point_sample(maps: Tensor, points: Tensor) -> Tensor:
    """maps [N,C,h,w], points [N,P,2] in [0,1] -> [N,C,P]."""
    return F.grid_sample(maps, (2.0 * points - 1.0).unsqueeze(2), align_corners=False).squeeze(3)


@torch.no_grad()
def match_one(
    class_logits: Tensor, mask_logits: Tensor, target: PanopticTarget, num_points: int
) -> tuple[Tensor, Tensor]:
    points = torch.rand(1, num_points, 2)
    truth = target.masks.to(mask_logits)[:, None]
    truth = point_sample(truth, points.repeat(truth.shape[0], 1, 1)).squeeze(1)
    sampled = mask_logits[:, None]
    sampled = point_sample(sampled, points.repeat(sampled.shape[0], 1, 1)).squeeze(1)
    positive = F.binary_cross_entropy_with_logits(sampled, torch.ones_like(sampled), reduction="none")
    negative = F.binary_cross_entropy_with_logits(sampled, torch.zeros_like(sampled), reduction="none")
    mask_cost = (
        torch.einsum("qp,np->qn", positive, truth) + torch.einsum("qp,np->qn", negative, 1 - truth)
    ) / num_points
    probability = sampled.sigmoid().flatten(1)
    overlap = 2 * torch.einsum("qp,np->qn", probability, truth)
    dice_cost = 1 - (overlap + 1) / (probability.sum(-1)[:, None] + truth.sum(-1)[None, :] + 1)
    class_cost = -class_logits.softmax(-1)[:, target.category_ids]
    cost = (MASK * mask_cost + CLASS * class_cost + DICE * dice_cost).reshape(mask_logits.shape[0], -1).cpu()
    query, index = linear_sum_assignment(cost)
    return torch.as_tensor(query, dtype=torch.int64), torch.as_tensor(index, dtype=torch.int64)


@torch.no_grad()
def uncertain_points(logits: Tensor, num_points: int) -> Tensor:
    num_uncertain = int(0.75 * num_points)
    candidates = torch.rand(logits.shape[0], int(3.0 * num_points), 2)
    uncertainty = -point_sample(logits, candidates).abs()
    index = torch.topk(uncertainty[:, 0, :], k=num_uncertain, dim=1).indices
    index = index + candidates.shape[1] * torch.arange(logits.shape[0])[:, None]
    uncertain = candidates.view(-1, 2)[index.view(-1)].view(logits.shape[0], num_uncertain, 2)
    return torch.cat([uncertain, torch.rand(logits.shape[0], num_points - num_uncertain, 2)], dim=1)


def losses_of_output(
    class_logits: Tensor, mask_logits: Tensor, targets: Sequence[PanopticTarget], num_points: int, num_masks: float
) -> Tensor:
    """Weighted sum of one output's three terms."""
    matches = [match_one(class_logits[b], mask_logits[b], target, num_points) for b, target in enumerate(targets)]
    image = torch.cat([torch.full_like(query, b) for b, (query, _) in enumerate(matches)])
    query = torch.cat([query for query, _ in matches])
    void = class_logits.shape[-1] - 1
    wanted = torch.full(class_logits.shape[:2], void, dtype=torch.int64)
    wanted[image, query] = torch.cat([t.category_ids[index] for t, (_, index) in zip(targets, matches, strict=True)])
    weight = torch.ones(void + 1)
    weight[-1] = NO_OBJECT
    class_loss = F.cross_entropy(class_logits.transpose(1, 2), wanted, weight)
    logits = mask_logits[image, query][:, None]
    truth = torch.cat([t.masks[index] for t, (_, index) in zip(targets, matches, strict=True)]).to(logits)[:, None]
    with torch.no_grad():
        points = uncertain_points(logits, num_points)
        labels = point_sample(truth, points).squeeze(1)
    sampled = point_sample(logits, points).squeeze(1)
    bce = F.binary_cross_entropy_with_logits(sampled, labels, reduction="none").mean(1).sum() / num_masks
    probability = sampled.sigmoid()
    dice = 1 - (2 * (probability * labels).sum(-1) + 1) / (probability.sum(-1) + labels.sum(-1) + 1)
    return CLASS * class_loss + MASK * bce + DICE * dice.sum() / num_masks


def total_loss(output: DecoderOutput, targets: Sequence[PanopticTarget], num_points: int = 12544) -> Tensor:
    num_masks = max(float(sum(target.masks.shape[0] for target in targets)), 1.0)
    total = losses_of_output(output.class_logits, output.mask_logits, targets, num_points, num_masks)
    for prediction in output.auxiliary:
        total = total + losses_of_output(
            prediction.class_logits, prediction.mask_logits, targets, num_points, num_masks
        )
    return total

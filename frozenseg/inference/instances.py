"""Instance result of one image. Source: MODEL.md, Inference.

Shape legend: Q queries, K categories, N instances, h w low-resolution logits, H W output pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from frozenseg.inference.geometry import ImageGeometry, MaskResizer
from frozenseg.types import Instances

_TILE_ELEMENTS = 1 << 22
_AREA_EPSILON = 1e-6


def instances(
    class_scores: Tensor,
    mask_logits: Tensor,
    geometry: ImageGeometry,
    is_thing: Tensor,
    top_k: int = 100,
    things_only: bool = True,
) -> Instances:
    """The best (query, category) pairs as masks, sorted by score.

    The top k are taken over all pairs; only then, with `things_only`, pairs of stuff categories are dropped. A mask is
    logit > 0 at the output size; its score is the class probability times the mean sigmoid inside the mask, 0 for an
    empty mask.

    Args:
        class_scores: [Q,K+1] log-probabilities, void last.
        mask_logits: [Q,h,w], covering `geometry.padded_size`.
        is_thing: [K] bool.
    """
    probabilities = class_scores.float().softmax(dim=-1)[:, :-1]
    num_categories = probabilities.shape[1]
    scores, pairs = probabilities.flatten().topk(min(top_k, probabilities.numel()))
    queries, categories = pairs // num_categories, pairs % num_categories
    if things_only:
        things = is_thing.to(categories.device)[categories]
        scores, queries, categories = scores[things], queries[things], categories[things]
    used, position = torch.unique(queries, return_inverse=True)
    masks, confidence = masks_and_confidence(mask_logits[used].float(), geometry)
    scores = scores * confidence[position]
    order = scores.argsort(descending=True, stable=True)
    return Instances(masks=masks[position[order]], category_ids=categories[order], scores=scores[order])


def masks_and_confidence(mask_logits: Tensor, geometry: ImageGeometry) -> tuple[Tensor, Tensor]:
    """[N,h,w] logits -> masks [N,H,W] bool (logit > 0), mean sigmoid inside each [N] float32 (0 for an empty one)."""
    num_masks, (height, width) = mask_logits.shape[0], geometry.output_size
    masks = torch.empty((num_masks, height, width), dtype=torch.bool, device=mask_logits.device)
    confidence_sum = mask_logits.new_zeros(num_masks)
    resizer = MaskResizer((int(mask_logits.shape[-2]), int(mask_logits.shape[-1])), geometry, mask_logits.device)
    step = max(_TILE_ELEMENTS // max(num_masks * width, 1), 1)
    for top in range(0, height, step):
        bottom = min(top + step, height)
        logits = resizer.rows(mask_logits, top, bottom)
        inside = torch.gt(logits, 0.0, out=masks[:, top:bottom])
        confidence_sum += (logits.sigmoid() * inside).sum(dim=(1, 2))
    area = masks.flatten(1).sum(dim=1)
    return masks, confidence_sum / (area + _AREA_EPSILON)

"""Mean of a map over predicted masks."""

from __future__ import annotations

import torch
from torch import Tensor

from frozenseg.ops.sampling import resize_bilinear

_EPSILON = 1e-8


def pool_masks(features: Tensor, mask_logits: Tensor) -> Tensor:
    """Mean of `features` over the cells where a mask's logit is above 0.

    The masks are resized bilinearly to the features' size first. No gradient flows into the masks. The sum is taken in
    float32 whatever the autocast mode: a mask can hold more cells than half precision can count, and 1e-8 would vanish.

    Args:
        features: [B,C,h,w] float.
        mask_logits: [B,Q,h',w'] float.

    Returns:
        [B,Q,C] float32; zeros for an empty mask (the count has 1e-8 added).
    """
    with torch.autocast(features.device.type, enabled=False):
        size = (int(features.shape[-2]), int(features.shape[-1]))
        inside = (resize_bilinear(mask_logits.detach(), size) > 0).float().flatten(2)
        share = inside / (inside.sum(-1, keepdim=True) + _EPSILON)
        return share @ features.float().flatten(2).transpose(1, 2)

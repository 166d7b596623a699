"""Mean of a map over predicted masks."""

from __future__ import annotations

import torch
from torch import Tensor

from frozenseg.ops.sampling import resize_bilinear

_EPSILON = 1e-8


def pool_masks(features: Tensor, mask_logits: Tensor) -> Tensor:
    """Mean of `features` over the cells where a mask's logit is above 0.

    The masks are resized bilinearly to the features' size first. No gradient flows into the masks. Sums and counts are
    taken in float32 whatever the autocast mode: a mask can hold more cells than half precision can count, and 1e-8
    would vanish. Only features in bfloat16, which has float32's range, are summed by a product in bfloat16, which
    rounds each sum once, when it is done: in training that takes half the memory.

    Args:
        features: [B,C,h,w] float.
        mask_logits: [B,Q,h',w'] float.

    Returns:
        [B,Q,C] float32; zeros for an empty mask (the count has 1e-8 added).
    """
    with torch.autocast(features.device.type, enabled=False):
        size = (int(features.shape[-2]), int(features.shape[-1]))
        resized = resize_bilinear(mask_logits.detach(), size)
        dtype = torch.bfloat16 if features.dtype == torch.bfloat16 else torch.float32
        # Written as 0 and 1 at once, and the counts divide the sums: no other tensor of this size is made.
        inside = torch.gt(resized, 0, out=torch.empty_like(resized, dtype=dtype)).flatten(2)
        # Channels first, so that the gradient of the features comes out in their own memory order.
        total = (features.to(dtype).flatten(2) @ inside.transpose(1, 2)).transpose(1, 2)
        return total.float() / (inside.sum(-1, keepdim=True, dtype=torch.float32) + _EPSILON)

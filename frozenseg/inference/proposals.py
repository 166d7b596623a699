"""Class-agnostic proposals: every mask that a model offers for an image, whatever it may show."""

from __future__ import annotations

import torch
from torch import Tensor

from frozenseg.inference.geometry import ImageGeometry, MaskResizer

_TILE_ELEMENTS = 1 << 22


def proposals(mask_logits: Tensor, geometry: ImageGeometry) -> Tensor:
    """[Q,h,w] logits -> [Q,H,W] bool, logit > 0 at the output size. Empty masks stay, so rows are queries.

    SAM's masks are proposals of their own geometry: call this for each and concatenate.
    Source: FACTS.md, proposal recall.
    """
    num_masks, (height, width) = mask_logits.shape[0], geometry.output_size
    masks = torch.empty((num_masks, height, width), dtype=torch.bool, device=mask_logits.device)
    resizer = MaskResizer((int(mask_logits.shape[-2]), int(mask_logits.shape[-1])), geometry, mask_logits.device)
    step = max(_TILE_ELEMENTS // max(num_masks * width, 1), 1)
    for top in range(0, height, step):
        bottom = min(top + step, height)
        torch.gt(resizer.rows(mask_logits, top, bottom), 0.0, out=masks[:, top:bottom])
    return masks

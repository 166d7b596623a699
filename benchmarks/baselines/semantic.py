"""The published form of the semantic result: every mask and every category at full size at once."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.baselines.panoptic import full_size_masks
from frozenseg.types import Size


def semantic_dense(class_scores: Tensor, mask_logits: Tensor, padded: Size, valid: Size, output: Size) -> Tensor:
    """class_scores [Q,K+1] log-probabilities, void last; mask_logits [Q,h,w]. Returns labels [H,W]."""
    masks = full_size_masks(mask_logits, padded, valid, output).sigmoid()
    return torch.einsum("qk,qhw->khw", class_scores.softmax(-1)[:, :-1], masks).argmax(0)

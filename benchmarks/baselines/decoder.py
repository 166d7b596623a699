"""The published form of the decoder's steps that ours takes differently; the rest of the decoder is the same modules.

FrozenSeg's transformer decoder multiplies masks and pools features by `einsum`, over masks divided by their sizes,
and resizes all queries' masks as the channels of one picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.baselines.deformable_attention import grid_sample_attention
from frozenseg.decoder import deformable_encoder, transformer


def mask_product(embeddings: Tensor, features: Tensor) -> Tensor:
    """[B,Q,C] times [B,C,H,W]: [B,Q,H,W]."""
    return torch.einsum("bqc,bchw->bqhw", embeddings, features)


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """[B,Q,H,W] to [B,Q,*size]."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def pool_masks(features: Tensor, mask_logits: Tensor) -> Tensor:
    """Features [B,C,h,w] over mask_logits [B,Q,h',w']: [B,Q,C]."""
    size = (int(features.shape[-2]), int(features.shape[-1]))
    if mask_logits.shape[-2:] != features.shape[-2:]:
        mask_logits = resize(mask_logits, size)
    with torch.no_grad():
        inside = (mask_logits > 0).to(mask_logits.dtype)
        count = inside.sum(dim=(-1, -2), keepdim=True) + 1e-8
    return torch.einsum("bchw,bqhw->bqc", features, inside / count)


@contextmanager
def plain_attention() -> Iterator[None]:
    """Within it our decoder has the plain deformable attention."""
    with mock.patch.object(deformable_encoder, "multi_scale_deformable_attention", grid_sample_attention):
        yield


@contextmanager
def plain_decoder() -> Iterator[None]:
    """Within it our decoder has everything of this file, and the plain deformable attention."""
    functions = {"mask_product": mask_product, "pool_masks": pool_masks, "resize_bilinear": resize}
    with plain_attention(), mock.patch.multiple(transformer, **functions):
        yield

"""Multi-scale deformable attention in PyTorch alone.

Shape legend: B images, S cells of all levels together, M heads, D channels of a head, N queries, L levels, P points.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from frozenseg.ops.deformable_attention_cpu import embedding_bag_attention
from frozenseg.types import Size


def multi_scale_deformable_attention(
    value: Tensor, shapes: Sequence[Size], locations: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sum of bilinear samples from several maps.

    Args:
        value: [B,S,M,D] float, the levels concatenated in the order of `shapes`, each row-major.
        shapes: (height, width) of each level.
        locations: [B,N,M,L,P,2] float, (x, y), 0 and 1 the outer edges of a map; outside counts as zero.
        weights: [B,N,M,L,P] float.

    Returns:
        [B,N,M*D], head-major. Computed in float32 for half-precision inputs, returned in the value's dtype.

    Source: Deformable DETR (Zhu et al. 2021), Eq. 3.
    """
    exact = torch.promote_types(value.dtype, torch.float32)
    with torch.autocast(value.device.type, enabled=False):
        if value.is_cuda and exact == torch.float32 and has_triton():
            from frozenseg.ops.deformable_attention_triton import triton_attention

            return triton_attention(value, shapes, locations.to(exact), weights.to(exact))
        attend = embedding_bag_attention if value.device.type == "cpu" else _by_grid_sample
        return attend(value.to(exact), shapes, locations.to(exact), weights.to(exact)).to(value.dtype)


@functools.cache
def has_triton() -> bool:
    """Whether Triton is installed: torch's CUDA builds for Linux bring it."""
    return importlib.util.find_spec("triton") is not None


def _by_grid_sample(value: Tensor, shapes: Sequence[Size], locations: Tensor, weights: Tensor) -> Tensor:
    batch, _, heads, dim = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    grids = 2.0 * locations - 1.0
    total = value.new_zeros(batch * heads, dim, queries)
    start = 0
    for level, (height, width) in enumerate(shapes):
        cells = value[:, start : start + height * width]
        start += height * width
        maps = cells.permute(0, 2, 3, 1).reshape(batch * heads, dim, height, width)
        grid = grids[:, :, :, level].transpose(1, 2).reshape(batch * heads, queries, points, 2)
        sampled = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        weight = weights[:, :, :, level].transpose(1, 2).reshape(batch * heads, 1, queries, points)
        total = total + (sampled * weight).sum(-1)
    return total.reshape(batch, heads * dim, queries).transpose(1, 2).contiguous()


def read_flat_memory(predictions: Tensor) -> Tensor:
    """What a one-level kernel reads of predictions laid out for several levels: the published SAM branch.

    A kernel that is told of one level walks the contiguous tensor with one-level strides, so that entry number s of
    (image, query, head) gets what was predicted by entry s // L for level s % L. In a batch image b reads image ~b/L.

    Args:
        predictions: [B,N,M,L,P] or [B,N,M,L,P,2].

    Returns:
        [B,N,M,1,P] or [B,N,M,1,P,2]. See docs/decisions/0001-sam-memory.md.
    """
    batch, queries, heads, _, *point = predictions.shape
    entries = predictions.reshape(-1, *point)[: batch * queries * heads]
    return entries.reshape(batch, queries, heads, 1, *point)

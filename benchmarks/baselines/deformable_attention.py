"""The usual pure-PyTorch form of multi-scale deformable attention: one `grid_sample` per level, then a weighted sum."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def grid_sample_attention(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """value [B,S,M,D]; locations [B,N,M,L,P,2] in [0,1]; weights [B,N,M,L,P]; returns [B,N,M*D]."""
    batch, _, heads, dim = value.shape
    queries = locations.shape[1]
    grids = 2 * locations - 1
    sampled = []
    for level, cells in enumerate(value.split([height * width for height, width in shapes], dim=1)):
        maps = cells.flatten(2).transpose(1, 2).reshape(batch * heads, dim, *shapes[level])
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)
        sampled.append(F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    weight = weights.transpose(1, 2).reshape(batch * heads, 1, queries, -1)
    total = (torch.stack(sampled, dim=-2).flatten(-2) * weight).sum(-1)
    return total.reshape(batch, heads * dim, queries).transpose(1, 2).contiguous()

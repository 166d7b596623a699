"""Bilinear sampling of maps at points: align_corners false, zeros outside. Source: MODEL notes, "Loss".

Shape legend: N maps, h w their size, P points; a point is (x, y) in [0,1] over the whole map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def corners(points: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The four cells around each point.

    Args: points [...,P,2] float in [0,1], (x, y); size: (h, w) of the map.
    Returns: flat cell indices [...,P,4] int64, always inside the map, and weights [...,P,4], 0 for a cell outside it.
    """
    h, w = size
    x, y = points[..., 0] * w - 0.5, points[..., 1] * h - 0.5
    left, top = x.floor(), y.floor()
    fx, fy = x - left, y - top
    x0, y0 = left.long(), top.long()
    # A point in [0,1] is at most half a cell outside, so only these four cells can be missing.
    gx0, fx = (1 - fx) * (x0 >= 0), fx * (x0 + 1 < w)
    gy0, fy = (1 - fy) * (y0 >= 0), fy * (y0 + 1 < h)
    x1, y1 = (x0 + 1).clamp(max=w - 1), (y0 + 1).clamp(max=h - 1)
    x0, y0 = x0.clamp(min=0), y0.clamp(min=0)
    index = torch.stack([y0 * w + x0, y0 * w + x1, y1 * w + x0, y1 * w + x1], dim=-1)
    weight = torch.stack([gy0 * gx0, gy0 * fx, fy * gx0, fy * fx], dim=-1)
    return index, weight


def sample_shared(maps: Tensor, points: Tensor) -> Tensor:
    """All maps at the same points: maps [N,h,w] float, points [P,2]; returns [N,P]."""
    grid = (points * 2 - 1)[None, :, None].expand(maps.shape[0], -1, -1, -1)
    return F.grid_sample(maps.unsqueeze(1), grid.to(maps.dtype), align_corners=False).view(maps.shape[0], -1)


def pixel_major(masks: Tensor) -> Tensor:
    """masks [N,H,W] bool as [H*W,N] uint8, so that one point reads all masks from one place in memory."""
    return masks.flatten(1).t().contiguous().view(torch.uint8)


def sample_pixel_major(cells: Tensor, size: tuple[int, int], points: Tensor) -> Tensor:
    """Binary masks at the same points: cells [H*W,N] of `pixel_major`, points [P,2]; returns [N,P] float32 in [0,1].

    Reads only the cells it needs: turning all of the masks into floats would cost more than the rest of the matching.
    """
    index, weight = corners(points, size)
    values = cells.index_select(0, index.flatten()).view(*index.shape, cells.shape[1])
    return (values.to(weight.dtype) * weight[..., None]).sum(-2).t().contiguous()


def sample_masks(masks: Tensor, rows: Tensor, points: Tensor) -> Tensor:
    """Mask rows[i] at points[i]: masks [N,H,W] bool, rows [n] int64, points [n,P,2]; returns [n,P] float32 in [0,1]."""
    size = (masks.shape[-2], masks.shape[-1])
    index, weight = corners(points, size)
    index += (rows * (size[0] * size[1])).view(-1, 1, 1)
    values = masks.reshape(-1).index_select(0, index.flatten()).view(index.shape)
    return (values.to(weight.dtype) * weight).sum(-1)


def sample_logits(maps: Tensor, points: Tensor) -> Tensor:
    """Map i at points[i], differentiable in the maps: maps [n,h,w], points [n,P,2]; returns [n,P]."""
    grid = (points * 2 - 1).unsqueeze(2)
    return F.grid_sample(maps.unsqueeze(1), grid.to(maps.dtype), align_corners=False).view(maps.shape[0], -1)

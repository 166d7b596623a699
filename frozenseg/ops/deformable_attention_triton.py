"""Deformable attention on a GPU: one Triton kernel forward, one backward, instead of a sampling per level.

Nothing of the samples is kept between the two passes: each reads the maps again, which is cheaper than writing
[B,N,M,L,P,D] out. Kernels are compiled by Triton at first use, which torch's CUDA builds bring; no compiler is needed.

Shape legend as in `deformable_attention`: B images, S cells, M heads, D channels of a head, N queries, L levels,
P points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from frozenseg.ops.deformable_attention_kernels import attend, attend_backward
from frozenseg.types import Size

_QUERIES_AT_ONCE = 32


def triton_attention(value: Tensor, shapes: Sequence[Size], locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of bilinear samples, as `multi_scale_deformable_attention` says it.

    Args:
        value: [B,S,M,D] float32 or half precision, which is summed in float32.
        shapes: (height, width) of each level.
        locations: [B,N,M,L,P,2] float32; what is no number reads zero.
        weights: [B,N,M,L,P] float32.

    Returns:
        [B,N,M*D] in the value's dtype.
    """
    result: Tensor = _Attention.apply(value, tuple(shapes), locations, weights)
    return result


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, shapes: tuple[Size, ...], locations: Tensor, weights: Tensor) -> Tensor:
        value, locations, weights = value.contiguous(), locations.contiguous(), weights.contiguous()
        levels = _level_table(shapes, value.device)
        batch, _, heads, dim = value.shape
        out = value.new_empty(batch, locations.shape[1], heads * dim)
        attend[_grid(locations)](value, levels, locations, weights, out, **_sizes(value, locations))
        ctx.save_for_backward(value, levels, locations, weights)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        value, levels, locations, weights = ctx.saved_tensors
        # Cells are added to from many queries at once, so in float32 whatever the value's dtype.
        grad_value = torch.zeros_like(value, dtype=torch.float32)
        grad_locations, grad_weights = torch.empty_like(locations), torch.empty_like(weights)
        attend_backward[_grid(locations)](
            value, levels, locations, weights, grad.contiguous(), grad_value, grad_locations, grad_weights,
            **_sizes(value, locations),
        )  # fmt: skip
        return grad_value.to(value.dtype), None, grad_locations, grad_weights


def _level_table(shapes: Sequence[Size], device: torch.device) -> Tensor:
    """[L,3] int32: height, width, first cell."""
    rows, start = [], 0
    for height, width in shapes:
        rows.append((height, width, start))
        start += height * width
    return torch.tensor(rows, dtype=torch.int32, device=device)


def _grid(locations: Tensor) -> tuple[int, int]:
    batch, queries, heads = locations.shape[:3]
    return triton.cdiv(queries, _QUERIES_AT_ONCE), batch * heads


def _sizes(value: Tensor, locations: Tensor) -> dict[str, int]:
    _, queries, heads, levels, points, _ = locations.shape
    dim = value.shape[3]
    return {
        "num_queries": queries,
        "num_cells": value.shape[1],
        "HEADS": heads,
        "DIM": dim,
        "LEVELS": levels,
        "POINTS": points,
        "BLOCK_N": _QUERIES_AT_ONCE,
        "BLOCK_D": triton.next_power_of_2(dim),
    }

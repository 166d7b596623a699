"""Deformable attention on a CPU, as products with a sparse matrix instead of one grid sampling per level.

Every output row is a weighted sum of 4·L·P value rows: an embedding bag, for which PyTorch has a fast kernel. Its two
gradients are a sampled dense product (with the weights) and a scattered sum (with the values).

Shape legend: B images, S cells of all levels together, M heads, D channels of a head, N queries, L levels, P points,
R = B·M·N output rows, head-major so that a head's reads stay close together; K = L·P samples of a row; corners are
ordered (top, bottom) × (left, right).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from frozenseg.types import Size

_CHUNK_ROWS = 256
"""Output rows whose contributions to the values are held at once: about 1.5 MB at the published sizes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Corners:
    """left [R,K,2] int64: value row of the left corner at top and bottom, from -1 to B·M·S - 1 (the right corner is
    the next row); vertical and horizontal [R,K,2]: factors of top, bottom and of left, right, zero outside a map;
    slope_y, slope_x [R,K,2]: their derivatives by the location."""

    left: Tensor
    vertical: Tensor
    horizontal: Tensor
    slope_y: Tensor
    slope_x: Tensor

    @property
    def share(self) -> Tensor:
        """[R,K,2,2]: bilinear factor of every corner."""
        return self.vertical[..., :, None] * self.horizontal[..., None, :]


def _axis(position: Tensor, length: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Splits positions [B,M,N,L,P] in [0,1] along an axis of `length` [L,1] cells.

    Returns the first cell (int64, from -1 to length - 1), and [...,2] factors and slopes of it and the next one.
    """
    place = position * length - 0.5
    first = place.floor()
    fraction = place - first
    # Clamped as integers: a NaN must not become an address.
    cell = torch.minimum(first.long().clamp_(min=-1), length.long() - 1)
    inside = torch.stack([(first >= 0) & (first < length), (first >= -1) & (first < length - 1)], dim=-1)
    factors = torch.stack([1.0 - fraction, fraction], dim=-1) * inside
    slopes = torch.stack([-length.expand_as(place), length.expand_as(place)], dim=-1) * inside
    return cell, factors, slopes


def _corners(shapes: Sequence[Size], locations: Tensor) -> _Corners:
    """locations [B,N,M,L,P,2]."""
    batch, queries, heads, levels, points, _ = locations.shape
    sizes = torch.tensor([tuple(shape) for shape in shapes])
    areas = sizes.prod(1)
    first_row = (areas.cumsum(0) - areas)[:, None]
    height, width = sizes.to(locations.dtype).split(1, dim=1)
    by_head = locations.transpose(1, 2)
    column, horizontal, slope_x = _axis(by_head[..., 0], width)
    line, vertical, slope_y = _axis(by_head[..., 1], height)
    # The lines above and below, moved onto the map; their factor is already zero where they lay outside.
    lines = torch.stack([line.clamp(min=0), torch.minimum(line + 1, sizes[:, :1] - 1)], dim=-1)
    block = torch.arange(batch * heads).reshape(batch, heads, 1, 1, 1) * int(areas.sum())
    left = lines.mul_(sizes[:, 1:, None]).add_((column + first_row + block).unsqueeze(-1))
    samples = (batch * heads * queries, levels * points, 2)
    return _Corners(
        left=left.reshape(samples),
        vertical=vertical.reshape(samples),
        horizontal=horizontal.reshape(samples),
        slope_y=slope_y.reshape(samples),
        slope_x=slope_x.reshape(samples),
    )


def _value_rows(corners: _Corners, num_rows: int) -> Tensor:
    """[R,4K] int64: value row of every corner; a corner outside (its factor is zero) is moved to some valid row."""
    both = torch.stack([corners.left, corners.left + 1], dim=-1)
    return both.clamp_(0, num_rows - 1).flatten(1)


def _head_major(x: Tensor) -> Tensor:
    """[B,N,M,...] to [B·M·N, prod(...)]."""
    return x.transpose(1, 2).reshape(x.shape[0] * x.shape[1] * x.shape[2], -1)


def _query_major(rows: Tensor, batch: int, heads: int) -> Tensor:
    """[B·M·N,...] to [B,N,M,...]."""
    return rows.reshape(batch, heads, -1, *rows.shape[1:]).transpose(1, 2)


class _EmbeddingBagAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, shapes: Sequence[Size], locations: Tensor, weights: Tensor) -> Tensor:
        batch, _, heads, _ = value.shape
        table = _head_major(value)
        corners = _corners(shapes, locations)
        factors = (corners.share * _head_major(weights)[..., None, None]).flatten(1)
        rows = _value_rows(corners, table.shape[0])
        read = F.embedding_bag(rows, table, mode="sum", per_sample_weights=factors)
        ctx.shapes = shapes
        # The corners are found again in backward: keeping them would cost three times the inputs' memory.
        ctx.save_for_backward(value, locations, weights)
        return _query_major(read, batch, heads).flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, Tensor | None, Tensor | None]:
        value, locations, weights = ctx.saved_tensors
        batch, cells, heads, dim = value.shape
        grad = _head_major(gradients[0].reshape(batch, -1, heads, dim))
        corners = _corners(ctx.shapes, locations)
        weight = _head_major(weights)[..., None, None]
        share = corners.share
        grad_value = grad_locations = grad_weights = None
        if ctx.needs_input_grad[0]:
            table_gradient = _scatter(corners.left, share * weight, grad, batch * heads * cells)
            grad_value = _query_major(table_gradient, batch, heads)
        if ctx.needs_input_grad[2] or ctx.needs_input_grad[3]:
            table = _head_major(value)
            products = _sampled_products(_value_rows(corners, table.shape[0]), grad, table).reshape(share.shape)
            grad_weights = _query_major((products * share).sum((-2, -1)), batch, heads).reshape(weights.shape)
            products.mul_(weight)
            by_x = (products * corners.vertical[..., :, None] * corners.slope_x[..., None, :]).sum((-2, -1))
            by_y = (products * corners.slope_y[..., :, None] * corners.horizontal[..., None, :]).sum((-2, -1))
            grad_locations = _query_major(torch.stack([by_x, by_y], dim=-1), batch, heads).reshape(locations.shape)
        return grad_value, None, grad_locations, grad_weights


def _scatter(left: Tensor, factors: Tensor, grad: Tensor, num_rows: int) -> Tensor:
    """Sums factors [R,K,2,2] times grad [R,D] into the value rows: [num_rows,D].

    Left and right corners are neighbouring rows, so they are added as one row of 2·D: half as many scattered sums.
    """
    dim = grad.shape[1]
    pairs = grad.new_zeros(num_rows + 1, 2 * dim)
    count = factors[0].numel()
    for start in range(0, grad.shape[0], _CHUNK_ROWS):
        chunk = slice(start, start + _CHUNK_ROWS)
        parts = factors[chunk].reshape(-1, count, 1) * grad[chunk].unsqueeze(1)
        pairs.index_add_(0, left[chunk].reshape(-1) + 1, parts.reshape(-1, 2 * dim))
    return pairs[1:, :dim] + pairs[:-1, dim:]


def _sampled_products(rows: Tensor, grad: Tensor, table: Tensor) -> Tensor:
    """[R,C]: the product of grad row r with table row rows[r, c]."""
    _silence_sparse_notice()
    num_rows, count = rows.shape
    starts = torch.arange(0, num_rows * count + 1, count)
    pattern = torch.sparse_csr_tensor(
        starts,
        rows.flatten(),
        grad.new_zeros(num_rows * count),
        size=(num_rows, table.shape[0]),
        check_invariants=False,
    )
    return torch.sparse.sampled_addmm(pattern, grad, table.T, beta=0.0).values().reshape(rows.shape)


@cache
def _silence_sparse_notice() -> None:
    """PyTorch says once per process that sparse CSR tensors are in beta; users of this function need not hear it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), size=(1, 1))


def embedding_bag_attention(value: Tensor, shapes: Sequence[Size], locations: Tensor, weights: Tensor) -> Tensor:
    """value [B,S,M,D], locations [B,N,M,L,P,2], weights [B,N,M,L,P], all float32 or float64 on the CPU: [B,N,M*D]."""
    read: Tensor = _EmbeddingBagAttention.apply(value, tuple(shapes), locations, weights)  # type: ignore[no-untyped-call]
    return read

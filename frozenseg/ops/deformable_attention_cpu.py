"""Deformable attention on a CPU, as products with a sparse matrix instead of one grid sampling per level.

Every output row is a weighted sum of 4·L·P value rows: an embedding bag, for which PyTorch has a fast kernel. Its two
gradients are a sampled dense product (for the factors) and a scattered sum (for the values). The work goes head by
head in blocks of queries, so that what lies between the kernels stays in the processor's cache.

Shape legend: B images, S cells of all levels together, M heads, D channels of a head, N queries, L levels, P points,
K = L·P samples of a query, n queries of a block, T rows of a head's table of padded maps. The four corners of a sample
come in the order top left, bottom left, top right, bottom right.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from frozenseg.types import Size

_BLOCK = 2048
"""Queries at once: 12 samples of 4 corners are then 0.8 MB of addresses."""
_SCATTER_BLOCK = 256
"""Queries whose contributions to the values are held at once: 1.5 MB at 32 channels."""
_BORDER = 2
"""Zero cells around every map: a sample moved this far out has all four corners in the border."""


class _Layout:
    """Where the cells of all levels lie in a head's table, each level with its border.

    width, height [K] float: of the sample's level; stride [K], start [K] int64: of a table line, of the level.
    """

    def __init__(self, shapes: Sequence[Size], num_points: int, dtype: torch.dtype) -> None:
        self.shapes = shapes
        strides = [width + 2 * _BORDER for _, width in shapes]
        self.areas = [(height + 2 * _BORDER) * stride for (height, _), stride in zip(shapes, strides, strict=True)]
        starts = [sum(self.areas[:level]) for level in range(len(shapes))]
        self.num_rows = sum(self.areas)
        self.height = torch.tensor([size[0] for size in shapes], dtype=dtype).repeat_interleave(num_points)
        self.width = torch.tensor([size[1] for size in shapes], dtype=dtype).repeat_interleave(num_points)
        self.stride = torch.tensor(strides).repeat_interleave(num_points)
        self.start = torch.tensor(starts).repeat_interleave(num_points)
        # Of cell (0, 0) in the level's padded map.
        self.origin = self.start + _BORDER * (self.stride + 1)
        # Of the top left corner, so that the three others are inside the table as well.
        self.last = self.start + torch.tensor(self.areas).repeat_interleave(num_points) - self.stride - 2
        self.corners = torch.stack([torch.zeros_like(self.stride), self.stride, torch.ones_like(self.stride)])
        self.corners = torch.cat([self.corners, self.stride[None] + 1])

    def pad(self, value: Tensor) -> Tensor:
        """value [B,S,M,D] to tables [B*M,T,D]."""
        batch, _, heads, dim = value.shape
        pieces = []
        for (height, width), cells in zip(self.shapes, self._split(value), strict=True):
            maps = cells.permute(0, 2, 1, 3).reshape(batch * heads, height, width, dim)
            border = (_BORDER, _BORDER)
            pieces.append(F.pad(maps, (0, 0, *border, *border)).flatten(1, 2))
        return torch.cat(pieces, dim=1)

    def crop(self, tables: Tensor, batch: int) -> Tensor:
        """Tables [B*M,T,D] back to [B,S,M,D]."""
        pieces = []
        for (height, width), rows in zip(self.shapes, torch.split(tables, self.areas, dim=1), strict=True):
            maps = rows.reshape(batch, -1, height + 2 * _BORDER, width + 2 * _BORDER, rows.shape[-1])
            inner = maps[:, :, _BORDER : _BORDER + height, _BORDER : _BORDER + width]
            pieces.append(inner.flatten(2, 3).transpose(1, 2))
        return torch.cat(pieces, dim=1)

    def _split(self, value: Tensor) -> tuple[Tensor, ...]:
        return torch.split(value, [height * width for height, width in self.shapes], dim=1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Samples:
    """rows [n,4,K] int64: table rows of the corners; x, y [n,K]: how far a sample is from left to right, from top to
    bottom of its four corners, in [0,1]."""

    rows: Tensor
    x: Tensor
    y: Tensor

    def shares(self) -> Tensor:
        """[n,4,K]: bilinear factors of the corners."""
        shares = self.x.new_empty(self.rows.shape)
        to_left, to_top = 1.0 - self.x, 1.0 - self.y
        torch.mul(to_top, to_left, out=shares[:, 0])
        torch.mul(self.y, to_left, out=shares[:, 1])
        torch.mul(to_top, self.x, out=shares[:, 2])
        torch.mul(self.y, self.x, out=shares[:, 3])
        return shares


def _locate(layout: _Layout, locations: Tensor) -> _Samples:
    """locations [n,K,2] in [0,1]."""
    axes = []
    for axis, length in enumerate((layout.width, layout.height)):
        # The roundings of grid_sample, twice forth and back: a place that differs in its last bit moves the gradient.
        place = (locations[..., axis] * 2.0).sub_(1.0).add_(1.0).mul_(length / 2.0).sub_(0.5)
        # A sample outside moves no farther than into the border.
        torch.minimum(place.clamp_(min=-_BORDER), length, out=place)
        first = place.floor()
        axes.append((first, place.sub_(first)))
    (column, x), (line, y) = axes
    left = column.long().add_(line.long().mul_(layout.stride)).add_(layout.origin)
    # A location that is not a number must not become an address.
    left = torch.minimum(left.clamp_(min=0), layout.last)
    return _Samples(rows=left.unsqueeze(1) + layout.corners, x=x, y=y)


def _blocks(heads: int, rows: int) -> Iterator[tuple[int, slice]]:
    """(head, queries) of every block."""
    for head in range(heads):
        for start in range(0, rows, _BLOCK):
            yield head, slice(start, start + _BLOCK)


def _by_head(x: Tensor) -> Tensor:
    """[B,N,M,...] to [B*M,N,...]."""
    return x.transpose(1, 2).flatten(0, 1)


class _EmbeddingBagAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, shapes: Sequence[Size], locations: Tensor, weights: Tensor) -> Tensor:
        batch, queries, heads, _, points = weights.shape
        layout = _Layout(shapes, points, value.dtype)
        tables = layout.pad(value)
        places, factors = _by_head(locations.flatten(3, 4)), _by_head(weights.flatten(3))
        read = value.new_empty(batch, queries, heads, value.shape[-1])
        for head, block in _blocks(batch * heads, queries):
            samples = _locate(layout, places[head, block])
            shares = samples.shares().mul_(factors[head, block].unsqueeze(1))
            read[head // heads, block, head % heads] = F.embedding_bag(
                samples.rows.flatten(1), tables[head], mode="sum", per_sample_weights=shares.flatten(1)
            )
        ctx.shapes = shapes
        # Rows and shares are found again in backward: keeping them would cost several times the inputs' memory.
        ctx.save_for_backward(value, locations, weights)
        return read.flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        value, locations, weights = ctx.saved_tensors
        batch, queries, heads, _, points = weights.shape
        layout = _Layout(ctx.shapes, points, value.dtype)
        tables = layout.pad(value)
        places, factors = _by_head(locations.flatten(3, 4)), _by_head(weights.flatten(3))
        grads = _by_head(gradients[0].reshape(batch, queries, heads, -1))
        grad_tables = torch.zeros_like(tables)
        grad_places = torch.empty_like(places, memory_format=torch.contiguous_format)
        grad_factors = torch.empty_like(factors, memory_format=torch.contiguous_format)
        for head, block in _blocks(batch * heads, queries):
            samples, factor = _locate(layout, places[head, block]), factors[head, block]
            grad, shares = grads[head, block].contiguous(), samples.shares()
            products = _sampled_products(samples.rows, grad, tables[head])
            grad_factors[head, block] = (products * shares).sum(1)
            grad_places[head, block] = _location_gradient(layout, samples, products, factor)
            _scatter(grad_tables[head], samples.rows, shares.mul_(factor.unsqueeze(1)), grad)
        by_query = (batch, heads, queries)
        return (
            layout.crop(grad_tables, batch),
            None,
            grad_places.reshape(*by_query, -1, points, 2).transpose(1, 2),
            grad_factors.reshape(*by_query, -1, points).transpose(1, 2),
        )


def _location_gradient(layout: _Layout, samples: _Samples, products: Tensor, factor: Tensor) -> Tensor:
    """[n,K,2], from products [n,4,K] of the gradient with the corners and the weights factor [n,K]."""
    top_left, bottom_left, top_right, bottom_right = products.unbind(1)
    by_x = torch.lerp(top_right - top_left, bottom_right - bottom_left, samples.y)
    by_y = torch.lerp(bottom_left - top_left, bottom_right - top_right, samples.x)
    return torch.stack([by_x.mul_(factor).mul_(layout.width), by_y.mul_(factor).mul_(layout.height)], dim=-1)


def _scatter(table: Tensor, rows: Tensor, factors: Tensor, grad: Tensor) -> None:
    """Adds factors [n,4,K] times grad [n,D] to the rows [n,4,K] of table [T,D].

    The right corners are the left ones' next rows, so both are added as one row of 2·D: half as many scattered sums.
    """
    dim = table.shape[1]
    pairs = table.new_zeros(table.shape[0], 2 * dim)
    left, right = factors.flatten(1).unsqueeze(-1).chunk(2, dim=1)
    first_rows = rows[:, :2].flatten(1)
    parts = table.new_empty(_SCATTER_BLOCK, left.shape[1], 2 * dim)
    for start in range(0, grad.shape[0], _SCATTER_BLOCK):
        chunk = slice(start, start + _SCATTER_BLOCK)
        part = parts[: grad[chunk].shape[0]]
        torch.mul(left[chunk], grad[chunk].unsqueeze(1), out=part[..., :dim])
        torch.mul(right[chunk], grad[chunk].unsqueeze(1), out=part[..., dim:])
        pairs.index_add_(0, first_rows[chunk].reshape(-1), part.flatten(0, 1))
    table += pairs[:, :dim]
    table[1:] += pairs[:-1, dim:]


def _sampled_products(rows: Tensor, grad: Tensor, table: Tensor) -> Tensor:
    """[n,4,K]: the product of grad [n,D] with the table rows [n,4,K]."""
    _silence_sparse_notice()
    count = rows[0].numel()
    pattern = torch.sparse_csr_tensor(
        torch.arange(0, rows.numel() + 1, count),
        rows.flatten(),
        grad.new_zeros(rows.numel()),
        size=(rows.shape[0], table.shape[0]),
        check_invariants=False,
    )
    products: Tensor = torch.sparse.sampled_addmm(pattern, grad, table.T, beta=0.0).values()
    return products.reshape(rows.shape)


@cache
def _silence_sparse_notice() -> None:
    """PyTorch says once per process that sparse CSR tensors are in beta; users of this function need not hear it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), size=(1, 1))


def embedding_bag_attention(value: Tensor, shapes: Sequence[Size], locations: Tensor, weights: Tensor) -> Tensor:
    """value [B,S,M,D], locations [B,N,M,L,P,2], weights [B,N,M,L,P], all float32 or float64 on the CPU: [B,N,M*D]."""
    read: Tensor = _EmbeddingBagAttention.apply(value, tuple(shapes), locations, weights)
    return read

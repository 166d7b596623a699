"""Layers that the pixel decoder and the transformer decoder share.

Shape legend: B images, N tokens that ask, S tokens that are asked, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_NORM_GROUPS = 32


class ConvNorm(nn.Module):
    """Convolution that keeps the size at stride 1, GroupNorm over 32 groups, ReLU when asked."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, bias: bool, relu: bool
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, bias=bias
        )
        self.norm = nn.GroupNorm(_NORM_GROUPS, out_channels)
        self.relu = relu
        nn.init.kaiming_uniform_(self.convolution.weight, a=1)
        if self.convolution.bias is not None:
            nn.init.zeros_(self.convolution.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B,in,H,W] to [B,out,H/stride,W/stride]."""
        x = self.convolution(x)
        norm = self.norm
        # The plain function: the module's own refuses a map of one cell when a group is one channel wide. In plain
        # order: on a CPU the norm of a channels-last map, which a convolution may give, takes 2.5 times as long.
        x = torch.group_norm(x.contiguous(), norm.num_groups, norm.weight, norm.bias, norm.eps)
        return F.relu(x) if self.relu else x


class Perceptron(nn.Module):
    """Linear layers with ReLU between them; `dims` names every width from the input to the output."""

    def __init__(self, dims: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(dims))

    def forward(self, x: Tensor) -> Tensor:
        """[...,dims[0]] to [...,dims[-1]]."""
        for position, layer in enumerate(self.layers):
            x = layer(x if position == 0 else F.relu(x))
        return x


class FeedForward(nn.Module):
    """x + two linear layers with ReLU, then LayerNorm."""

    def __init__(self, dim: int, inner_dim: int) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, inner_dim)
        self.contract = nn.Linear(inner_dim, dim)
        self.norm = nn.LayerNorm(dim)
        for linear in (self.expand, self.contract):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[...,dim] to the same."""
        y: Tensor = self.norm(x + self.contract(F.relu(self.expand(x))))
        return y


class AttentionBlock(nn.Module):
    """Multi-head attention, residual, LayerNorm. Positions are added to queries and keys, never to values."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        # One packed projection of queries, keys and values in this order, as in nn.MultiheadAttention.
        self.in_projection = nn.Linear(dim, 3 * dim)
        self.out_projection = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        nn.init.xavier_uniform_(self.in_projection.weight)
        nn.init.xavier_uniform_(self.out_projection.weight)
        nn.init.zeros_(self.in_projection.bias)
        nn.init.zeros_(self.out_projection.bias)

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        *,
        position: Tensor | None = None,
        memory_position: Tensor | None = None,
        allowed: Tensor | None = None,
    ) -> Tensor:
        """Tokens `x` read `memory`.

        Args:
            x: [B,N,C]; also the residual.
            memory: [B,S,C]; the values.
            position: [N,C] or [B,N,C], added to the queries.
            memory_position: [S,C] or [B,S,C], added to the keys.
            allowed: [B,N,S] bool, True where a token may look; every row has a True.

        Returns:
            [B,N,C].
        """
        keys = memory if memory_position is None else memory + memory_position
        weights = self.in_projection.weight.chunk(3)
        biases = self.in_projection.bias.chunk(3)
        inputs = (x if position is None else x + position, keys, memory)
        query, key, value = (
            self._split_heads(F.linear(tokens, weight, bias))
            for tokens, weight, bias in zip(inputs, weights, biases, strict=True)
        )
        mask = None if allowed is None else allowed.unsqueeze(1)
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        y: Tensor = self.norm(x + self.out_projection(read.transpose(1, 2).flatten(2)))
        return y

    def _split_heads(self, tokens: Tensor) -> Tensor:
        """[B,N,C] to [B,M,N,C/M]."""
        batch, length, dim = tokens.shape
        return tokens.reshape(batch, length, self.num_heads, dim // self.num_heads).transpose(1, 2)


def open_blocked_rows(allowed: Tensor) -> Tensor:
    """A row [..., S] bool without any True becomes all True: a query with everything blocked sees everything."""
    return allowed | ~allowed.any(-1, keepdim=True)


def flatten_map(x: Tensor) -> Tensor:
    """[B,C,H,W] to tokens [B,H*W,C], row-major."""
    return x.flatten(2).transpose(1, 2)


def unflatten_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Tokens [B,H*W,C] back to [B,C,H,W]."""
    batch, _, dim = tokens.shape
    return tokens.transpose(1, 2).reshape(batch, dim, *size)


def map_size(x: Tensor) -> tuple[int, int]:
    """(H, W) of [...,H,W]."""
    return int(x.shape[-2]), int(x.shape[-1])


def pixel_centres(size: tuple[int, int], device: torch.device) -> Tensor:
    """[H*W,2] float32, (x, y) in (0,1), row-major."""
    height, width = size
    y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
    x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([grid_x, grid_y], dim=-1).reshape(-1, 2)

"""Encoder of deformable attention layers over one or several maps.

Shape legend: B images, S cells of all levels together, C channels, M heads, L levels predicted, P points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from frozenseg.decoder.config import SamMemory
from frozenseg.decoder.layers import FeedForward, flatten_map, map_size, pixel_centres, unflatten_map
from frozenseg.ops import multi_scale_deformable_attention, read_flat_memory, sine_position_embedding
from frozenseg.types import Size


class DeformableAttention(nn.Module):
    """Self-attention over map cells at a few predicted places.

    Predictions are made for `num_levels` maps. When only one map is given, `memory` says what is read of them; with
    all maps given it is None.
    """

    def __init__(
        self, dim: int, num_heads: int, num_levels: int, num_points: int, memory: SamMemory | None = None
    ) -> None:
        super().__init__()
        self.num_heads, self.num_levels, self.num_points, self.memory = num_heads, num_levels, num_points, memory
        self.offsets = nn.Linear(dim, num_heads * num_levels * num_points * 2)
        self.attention_logits = nn.Linear(dim, num_heads * num_levels * num_points)
        self.value_projection = nn.Linear(dim, dim)
        self.out_projection = nn.Linear(dim, dim)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Offsets start along one direction per head, point p at p + 1 cells; attention starts uniform."""
        nn.init.zeros_(self.offsets.weight)
        angle = torch.arange(self.num_heads, dtype=torch.float32) * (2.0 * math.pi / self.num_heads)
        direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        start = direction[:, None, None, :] * steps[None, None, :, None]
        self.offsets.bias.copy_(start.expand(-1, self.num_levels, -1, -1).reshape(-1))
        nn.init.zeros_(self.attention_logits.weight)
        nn.init.zeros_(self.attention_logits.bias)
        for projection in (self.value_projection, self.out_projection):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, tokens: Tensor, position: Tensor, centres: Tensor, shapes: Sequence[Size]) -> Tensor:
        """tokens [B,S,C]; position [S,C]; centres [S,2] in [0,1]; returns [B,S,C]."""
        query = tokens + position
        value = self.value_projection(tokens).unflatten(-1, (self.num_heads, -1))
        layout = (self.num_heads, self.num_levels, self.num_points)
        # Places in cells are far finer than half precision can say across a large map.
        offsets = self.offsets(query).float().unflatten(-1, (*layout, 2))
        logits = self.attention_logits(query).float().unflatten(-1, layout)
        cells = torch.tensor([(width, height) for height, width in shapes], dtype=torch.float32, device=tokens.device)
        locations = centres[:, None, None, None, :] + offsets / cells[:, None, :]
        if self.memory == "own_level":
            locations, weights = locations[..., :1, :, :], logits[..., :1, :].softmax(-1)
        else:
            weights = logits.flatten(-2).softmax(-1).unflatten(-1, layout[1:])
            if self.memory == "published":
                locations, weights = read_flat_memory(locations), read_flat_memory(weights)
        read = multi_scale_deformable_attention(value, shapes, locations, weights)
        projected: Tensor = self.out_projection(read)
        return projected


class DeformableLayer(nn.Module):
    """Deformable self-attention and feed-forward, each added to its input and normalised."""

    def __init__(self, attention: DeformableAttention, dim: int, feedforward_dim: int) -> None:
        super().__init__()
        self.attention = attention
        self.attention_norm = nn.LayerNorm(dim)
        self.feedforward = FeedForward(dim, feedforward_dim)

    def forward(self, tokens: Tensor, position: Tensor, centres: Tensor, shapes: Sequence[Size]) -> Tensor:
        """tokens [B,S,C] to the same."""
        tokens = self.attention_norm(tokens + self.attention(tokens, position, centres, shapes))
        y: Tensor = self.feedforward(tokens)
        return y


class DeformableEncoder(nn.Module):
    """Refines maps that all have `dim` channels, at any sizes."""

    def __init__(
        self,
        dim: int,
        *,
        num_layers: int,
        num_heads: int,
        num_levels: int,
        num_points: int,
        feedforward_dim: int,
        memory: SamMemory | None = None,
    ) -> None:
        super().__init__()
        self.level_embedding = nn.Parameter(torch.randn(num_levels, dim))
        self.layers = nn.ModuleList(
            DeformableLayer(DeformableAttention(dim, num_heads, num_levels, num_points, memory), dim, feedforward_dim)
            for _ in range(num_layers)
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """maps [B,C,h,w] each; returns maps of the same shapes."""
        shapes = [map_size(level) for level in maps]
        dim, device = int(maps[0].shape[1]), maps[0].device
        tokens = torch.cat([flatten_map(level) for level in maps], dim=1)
        position = torch.cat(
            [
                sine_position_embedding(shape, dim, device).to(tokens.dtype) + self.level_embedding[level]
                for level, shape in enumerate(shapes)
            ]
        )
        centres = torch.cat([pixel_centres(shape, device) for shape in shapes])
        for layer in self.layers:
            tokens = layer(tokens, position, centres, shapes)
        pieces = torch.split(tokens, [height * width for height, width in shapes], dim=1)
        return [unflatten_map(piece, shape) for piece, shape in zip(pieces, shapes, strict=True)]

"""Sine position embedding of a map."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from frozenseg.types import Size

_TEMPERATURE = 10000.0
_EPSILON = 1e-6


def _sine_axis(length: int, dim: int, device: torch.device | str | None) -> Tensor:
    """[length, dim]: sin on even channels, cos on odd ones, of the pixel number (from 1) scaled to (0, 2π]."""
    number = torch.arange(1, length + 1, dtype=torch.float32, device=device)
    angle = number / (length + _EPSILON) * (2.0 * math.pi)
    channel = torch.arange(dim, dtype=torch.float32, device=device)
    period = _TEMPERATURE ** (2.0 * torch.div(channel, 2, rounding_mode="floor") / dim)
    phase = angle[:, None] / period
    return torch.where(channel.remainder(2) == 0, phase.sin(), phase.cos())


def sine_position_embedding(size: Size, dim: int, device: torch.device | str | None = None) -> Tensor:
    """[h*w, dim] float32, row-major over the map; the first half of the channels encodes y, the second half x.

    `dim` is a multiple of 4. The two axes are computed apart and spread, so the cost is in the copy only.
    Source: MODEL.md "Pixel decoder" (the embedding of DETR, normalised).
    """
    assert dim % 4 == 0, dim
    height, width = int(size[0]), int(size[1])
    rows = _sine_axis(height, dim // 2, device)[:, None, :].expand(height, width, dim // 2)
    columns = _sine_axis(width, dim // 2, device)[None, :, :].expand(height, width, dim // 2)
    return torch.cat([rows, columns], dim=-1).reshape(height * width, dim)

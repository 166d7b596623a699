"""From pixels to an encoder's input."""

from __future__ import annotations

import torch
from torch import Tensor

Rgb = tuple[float, float, float]

CLIP_PIXEL_MEAN: Rgb = (122.7709383, 116.7460125, 104.09373615)
CLIP_PIXEL_STD: Rgb = (68.5005327, 66.6321579, 70.32316305)
SAM_PIXEL_MEAN: Rgb = (123.675, 116.28, 103.53)
SAM_PIXEL_STD: Rgb = (58.395, 57.12, 57.375)


def inside_image(valid_sizes: Tensor, height: int, width: int) -> Tensor:
    """[B,H,W] bool: the pixels of each image, False on the padding at its right and bottom. valid_sizes [B,2]."""
    rows = torch.arange(height, device=valid_sizes.device)[None, :, None] < valid_sizes[:, 0, None, None]
    columns = torch.arange(width, device=valid_sizes.device)[None, None, :] < valid_sizes[:, 1, None, None]
    return rows & columns


def normalise(images: Tensor, valid_sizes: Tensor, mean: Rgb, std: Rgb) -> Tensor:
    """Zero mean, unit deviation by channel, and 0 on the padding.

    Args:
        images: [B,3,H,W] RGB in 0..255, padded at the right and bottom; what lies in the padding doesn't matter.
        valid_sizes: [B,2] int64, (height, width) of each image without padding.
        mean: by channel, in 0..255.
        std: by channel, in 0..255.

    Returns:
        [B,3,H,W] float32.
    """
    offset = torch.tensor(mean, dtype=torch.float32, device=images.device)[:, None, None]
    scale = torch.tensor(std, dtype=torch.float32, device=images.device)[:, None, None]
    height, width = images.shape[-2:]
    inside = inside_image(valid_sizes.to(images.device), height, width)[:, None]
    # The published model normalises first and pads afterwards: padding is 0 in normalised units, the mean colour.
    return torch.where(inside, (images.to(torch.float32) - offset) / scale, 0.0)

"""Bilinear reading of maps: whole maps at another size, and single points.

Shape legend: N maps, C channels, H W map size, P points.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from frozenseg.types import Size


def resize_bilinear(x: Tensor, size: Size) -> Tensor:
    """x [N,C,H,W] float to [N,C,*size]; corners not aligned, no antialias. Returned as it is when the size fits."""
    if (int(x.shape[-2]), int(x.shape[-1])) == (int(size[0]), int(size[1])):
        return x
    # Every channel as an image of its own: of many channels PyTorch makes a channels-last copy first, for small sizes
    # on a CPU, which takes ten times as long as the rest.
    planes = x.flatten(0, 1).unsqueeze(1) if x.is_contiguous() else x
    size = (int(size[0]), int(size[1]))
    resized = F.interpolate(planes, size=size, mode="bilinear", align_corners=False, antialias=False)
    return resized.reshape(*x.shape[:2], *size)


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Reads maps at points, bilinearly; whatever lies outside a map counts as zero.

    Args:
        maps: [N,C,H,W] float.
        points: [N,P,2] float, (x, y) in [0,1]; 0 and 1 are the outer edges of the border pixels.

    Returns:
        [N,C,P].
    """
    grid = 2.0 * points.to(maps.dtype).unsqueeze(2) - 1.0
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False).squeeze(3)

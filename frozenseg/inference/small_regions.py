"""Fills small holes of masks and removes small islands, in the logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

_TOUCHING = np.ones((3, 3), dtype=bool)  # Diagonal neighbours belong together.


def without_small_regions(logits: Tensor, min_area: float) -> tuple[Tensor, Tensor]:
    """First holes, then islands of fewer than `min_area` cells change sign; if every island is small the largest stays.

    Args:
        logits: [N,h,w]; the mask is logit > 0.
        min_area: in cells of the logits.

    Returns:
        Logits [N,h,w] and changed [N] bool. A changed cell keeps its distance from 0 (at least 0.1).

    Source: the rule of segment-anything's `remove_small_regions`.
    """
    result = logits.clone()
    changed = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    for i, mask in enumerate((logits > 0).cpu().numpy()):
        holes = _small(~mask, min_area, keep_largest=False)
        islands = _small(mask | holes, min_area, keep_largest=True)
        filled, removed = holes & ~islands, mask & islands
        if filled.any() or removed.any():
            changed[i] = True
            magnitude = logits[i].abs().clamp(min=0.1)
            result[i] = torch.where(torch.from_numpy(filled).to(logits.device), magnitude, result[i])
            result[i] = torch.where(torch.from_numpy(removed).to(logits.device), -magnitude, result[i])
    return result, changed


def _small(region: NDArray[Any], min_area: float, *, keep_largest: bool) -> NDArray[Any]:
    """[h,w] bool: the connected parts of `region` that are smaller than `min_area`."""
    labels, count = ndimage.label(region, structure=_TOUCHING)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    small = sizes < min_area
    small[0] = False
    if keep_largest and count > 0 and small[1:].all():
        small[1 + int(sizes[1:].argmax())] = False
    return np.asarray(small[labels], dtype=bool)

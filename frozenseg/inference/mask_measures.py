"""Stability, area and box of masks: at output size (exact), or of the low-resolution logits (approximate).

Shape legend: N masks, h w low-resolution logits, H W output pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from frozenseg.inference.geometry import MaskResizer, Window

_SLACK = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Measures:
    """stability [N] float32, 0 where nothing exceeds -offset; area [N] int64, pixels with logit > 0; boxes [N,4] int64
    xyxy, the last row and column included, all 0 for an empty mask (segment-anything's conventions)."""

    stability: Tensor
    area: Tensor
    boxes: Tensor

    def select(self, index: Tensor) -> Measures:
        return Measures(self.stability[index], self.area[index], self.boxes[index])

    def replace(self, where: Tensor, new: Measures) -> Measures:
        """Area and boxes of the masks `where` [N] bool come from `new`; stability stays."""
        area, boxes = self.area.clone(), self.boxes.clone()
        area[where], boxes[where] = new.area, new.boxes
        return Measures(self.stability, area, boxes)

    @staticmethod
    def concatenate(parts: Sequence[Measures]) -> Measures:
        return Measures(
            torch.cat([p.stability for p in parts]),
            torch.cat([p.area for p in parts]),
            torch.cat([p.boxes for p in parts]),
        )


def measure_exact(logits: Tensor, resizer: MaskResizer, offset: float) -> Measures:
    """Measures of [N,h,w] logits at the output size.

    Only the rectangle around a mask is resized: a bilinear resize stays within the range of what it reads, so no output
    pixel elsewhere can exceed -offset.
    """
    device = logits.device
    reach = logits > -offset - _SLACK
    stability, areas, boxes = [], [], []
    for mask, low in zip(logits, _bounds(reach), strict=True):
        window = resizer.output_window(low) if low is not None else None
        if window is None or window.num_pixels == 0:
            stability.append(0.0)
            areas.append(0)
            boxes.append([0, 0, 0, 0])
            continue
        values = resizer.window(mask[None], window)[0]
        union = int((values > -offset).sum())
        stability.append(int((values > offset).sum()) / union if union else 0.0)
        inside = values > 0
        areas.append(int(inside.sum()))
        box = _bounds(inside[None])[0]
        boxes.append(
            [window.left + box.left, window.top + box.top, window.left + box.right - 1, window.top + box.bottom - 1]
            if box is not None
            else [0, 0, 0, 0]
        )
    return Measures(
        torch.tensor(stability, dtype=torch.float32, device=device),
        torch.tensor(areas, dtype=torch.int64, device=device),
        torch.tensor(boxes, dtype=torch.int64, device=device).view(-1, 4),
    )


def measure_low_resolution(logits: Tensor, resizer: MaskResizer, offset: float) -> Measures:
    """Measures of [N,h,w] logits as they are, scaled to output pixels."""
    geometry = resizer.geometry
    low_size = (int(logits.shape[-2]), int(logits.shape[-1]))
    scale = geometry.pixels_per_cell(low_size)
    rows, columns = (math.ceil(low_size[i] * geometry.valid_size[i] / geometry.padded_size[i]) for i in (0, 1))
    logits = logits[:, :rows, :columns]
    inside = logits > 0
    union = (logits > -offset).flatten(1).sum(dim=1)
    stability = (logits > offset).flatten(1).sum(dim=1) / union.clamp(min=1)
    area = (inside.flatten(1).sum(dim=1) * (scale[0] * scale[1])).round().long()
    boxes = torch.zeros(len(logits), 4, dtype=torch.int64, device=logits.device)
    for i, box in enumerate(_bounds(inside)):
        if box is not None:
            edges = (box.left * scale[1], box.top * scale[0], box.right * scale[1] - 1, box.bottom * scale[0] - 1)
            limits = (geometry.output_size[1], geometry.output_size[0]) * 2
            boxes[i] = torch.tensor([min(max(round(e), 0), limit - 1) for e, limit in zip(edges, limits, strict=True)])
    return Measures(stability.float(), area, boxes)


def _bounds(inside: Tensor) -> list[Window | None]:
    """[N,h,w] bool -> the smallest window around each mask, None for an empty one."""
    height, width = inside.shape[-2:]
    rows, columns = inside.any(dim=2), inside.any(dim=1)
    # argmax of a boolean line is its first True.
    edges = torch.stack(
        [
            rows.int().argmax(dim=1),
            height - rows.flip(1).int().argmax(dim=1),
            columns.int().argmax(dim=1),
            width - columns.flip(1).int().argmax(dim=1),
        ],
        dim=1,
    ).tolist()
    return [Window(*edge) if found else None for edge, found in zip(edges, rows.any(dim=1).tolist(), strict=True)]

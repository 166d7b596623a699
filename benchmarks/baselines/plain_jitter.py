"""Large-scale jitter as one would first write it with PIL and numpy: the baseline of benchmarks/jitter.py.

Decode, flip, resize the whole image and the whole id map, cut the crop out, pad, then one mask per segment.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from frozenseg.data import JitterPlan
from frozenseg.types import TruthSegment


def augment(
    jpeg: bytes, png: bytes, segments: tuple[TruthSegment, ...], plan: JitterPlan, crop: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The crop [S,S,3] uint8, masks [N,S,S] bool and category ids [N], by the same plan as the code under test."""
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    colors = np.array(Image.open(io.BytesIO(png)).convert("RGB"), dtype=np.int32)
    ids = Image.fromarray(colors[:, :, 0] + 256 * colors[:, :, 1] + 65536 * colors[:, :, 2])
    scale_y, scale_x = plan.size[0] / plan.height, plan.size[1] / plan.width
    size = (round(image.width * scale_x), round(image.height * scale_y))
    top, left = round(plan.top * scale_y), round(plan.left * scale_x)
    pixels = np.array(image.resize(size, Image.Resampling.BILINEAR))[top : top + crop, left : left + crop]
    labels = np.array(ids.resize(size, Image.Resampling.NEAREST))[top : top + crop, left : left + crop]
    if plan.flip:
        pixels, labels = pixels[:, ::-1], labels[:, ::-1]
    canvas = np.full((crop, crop, 3), 128, dtype=np.uint8)
    canvas[: pixels.shape[0], : pixels.shape[1]] = pixels
    label_canvas = np.zeros((crop, crop), dtype=np.int32)
    label_canvas[: labels.shape[0], : labels.shape[1]] = labels
    masks, categories = [], []
    for segment in segments:
        mask = label_canvas == segment.id
        if not segment.is_crowd and mask.any():
            masks.append(mask)
            categories.append(segment.category_id)
    stacked = np.stack(masks) if masks else np.zeros((0, crop, crop), dtype=bool)
    return canvas, stacked, np.array(categories, dtype=np.int64)

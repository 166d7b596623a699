"""Small pictures of results for the contact sheet."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from torch import Tensor

from frozenseg.inference.palette import Color
from frozenseg.types import SegmentationOutput

LONGER_SIDE = 112
_QUALITY = 40
_COLOR_SHARE = 0.45


def thumbnail(image: Tensor, result: SegmentationOutput, colors: list[Color]) -> bytes:
    """WebP of at most LONGER_SIDE pixels: the image with its segments tinted and edged in their categories' colours.

    Args:
        image: [3,h,w] uint8 RGB.
        result: at the image's size.
        colors: RGB of every category.
    """
    picture = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()))
    picture.thumbnail((LONGER_SIDE, LONGER_SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    pixels = np.asarray(picture).astype(np.float32)
    height, width = pixels.shape[:2]
    ids = result.segment_ids.cpu().numpy()
    rows = (np.arange(height) + 0.5) * ids.shape[0] / height
    columns = (np.arange(width) + 0.5) * ids.shape[1] / width
    small = ids[rows.astype(np.int64)[:, None], columns.astype(np.int64)]
    tinted = pixels.copy()
    for segment in result.segments:
        tinted[small == segment.id] = colors[segment.category_id]
    edge = np.zeros(small.shape, dtype=bool)
    edge[:, 1:] |= small[:, 1:] != small[:, :-1]
    edge[1:] |= small[1:] != small[:-1]
    share = np.where(edge, 1.0, _COLOR_SHARE)[..., None]
    blended = (pixels * (1 - share) + tinted * share).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(blended).save(buffer, "WEBP", quality=_QUALITY, method=2)
    return buffer.getvalue()

"""Answers as pictures, drawn by the library's own overlay."""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray

from frozenseg.inference.overlay import draw_panoptic
from frozenseg.inference.palette import category_colors
from frozenseg.types import Category, ImageSample, Segment, SegmentationOutput, Vocabulary
from serve.answers import label_map, label_png, png_bytes, zip_bytes
from serve.schema import SegmentOptions, SegmentResponse

_PROPOSALS = Vocabulary(categories=(Category(name="proposal"),))


@functools.lru_cache(maxsize=64)
def category_hex(vocabulary: Vocabulary) -> tuple[str, ...]:
    """The colour of every category, `#rrggbb`, the same as in overlays."""
    return tuple("#{:02x}{:02x}{:02x}".format(*color) for color in category_colors(vocabulary))


def render(response: SegmentResponse, sample: ImageSample, options: SegmentOptions) -> tuple[bytes | str, str]:
    """The answer's body and media type, in the format that the options ask for."""
    if options.format == "json":
        return response.model_dump_json(), "application/json"
    labels = label_map(response.segments, response.size)
    if options.format == "png":
        return label_png(labels), "image/png"
    overlay = overlay_png(sample, response, labels)
    if options.format == "overlay":
        return overlay, "image/png"
    return zip_bytes(response, label_png(labels), overlay), "application/zip"


def overlay_png(sample: ImageSample, response: SegmentResponse, labels: NDArray[np.int32]) -> bytes:
    """The segments over their image, with names and a legend; labels [h,w] segment ids as from `label_map`."""
    if response.task == "proposals":
        vocabulary = _PROPOSALS
    else:
        categories = response.categories
        vocabulary = Vocabulary(categories=tuple(Category(name=c.name, is_thing=c.is_thing) for c in categories))
    segments = tuple(
        Segment(
            id=s.id,
            category_id=s.category_id or 0,
            is_thing=s.is_thing is not False,
            score=s.score,
            area=s.area,
        )
        for s in response.segments
    )
    result = SegmentationOutput(segment_ids=torch.from_numpy(labels), segments=segments)
    notice = " ".join(response.warnings)
    return png_bytes(draw_panoptic(sample.image, result, vocabulary, notice))

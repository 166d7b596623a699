"""Looking a data set over before hours are spent on it: counts, and every defect with its image."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from frozenseg.data.annotations import decode_annotation
from frozenseg.data.dataset import SegmentationData
from frozenseg.data.images import decode_image
from frozenseg.errors import UserInputError
from frozenseg.types import ImageSample, PanopticAnnotation, Vocabulary

TILE = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryCount:
    """Segments, and images with one, of a category; pixels of all."""

    name: str
    segments: int
    images: int
    pixels: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DataReport:
    """What was found. `problems` are one line each; `sheet` is a contact sheet as PNG, empty when nothing decoded."""

    num_images: int
    num_segments: int
    categories: tuple[CategoryCount, ...]
    smallest: tuple[int, int]
    largest: tuple[int, int]
    problems: tuple[str, ...]
    sheet: bytes


def check_data(
    data: SegmentationData,
    *,
    limit: int = 0,
    num_shown: int = 12,
    progress: Callable[[int, int], None] | None = None,
) -> DataReport:
    """Reads and decodes every sample (or the first `limit`): files there, image readable and of the annotation's size,
    PNG ids equal to JSON ids, stated areas right.

    Args:
        num_shown: pictures on the contact sheet, spread over the set.
        progress: called with the number of samples done and of all.
    """
    total = min(limit, len(data)) if limit else len(data)
    segments, images, pixels = Counter[int](), Counter[int](), Counter[int]()
    problems: list[str] = []
    sizes: list[tuple[int, int]] = []
    shown: list[Image.Image] = []
    wanted = set(np.linspace(0, total - 1, min(num_shown, total), dtype=int).tolist()) if total else set()
    for index in range(total):
        try:
            encoded = data[index]
            sample = decode_image(encoded.image_bytes, encoded.image_id, file_name=encoded.file_name)
            annotation = decode_annotation(encoded, check_areas=True)
            if tuple(annotation.segment_ids.shape) != sample.original_size:
                raise UserInputError(
                    f"image {sample.image_id!r}: expected an annotation of its size {sample.original_size}, "
                    f"found {tuple(annotation.segment_ids.shape)}"
                )
        except UserInputError as error:
            problems.append(str(error))
        else:
            sizes.append(sample.original_size)
            areas = torch.bincount(_numbered(annotation), minlength=len(annotation.segments) + 1).tolist()[1:]
            for segment, area in zip(annotation.segments, areas, strict=True):
                segments[segment.category_id] += 1
                pixels[segment.category_id] += area
            images.update({segment.category_id for segment in annotation.segments})
            if index in wanted:
                shown.append(_tile(sample, annotation, data.vocabulary))
        if progress:
            progress(index + 1, total)
    counts = tuple(
        CategoryCount(name=c.name, segments=segments[i], images=images[i], pixels=pixels[i])
        for i, c in enumerate(data.vocabulary.categories)
    )
    return DataReport(
        num_images=total,
        num_segments=segments.total(),
        categories=counts,
        smallest=min(sizes, key=lambda s: s[0] * s[1], default=(0, 0)),
        largest=max(sizes, key=lambda s: s[0] * s[1], default=(0, 0)),
        problems=tuple(problems),
        sheet=_sheet(shown),
    )


def _numbered(annotation: PanopticAnnotation) -> Tensor:
    """[h·w] int64: 1 + position of each pixel's segment, 0 for void."""
    ids = torch.tensor([0, *(segment.id for segment in annotation.segments)])
    order = ids.argsort()
    return order[torch.searchsorted(ids[order], annotation.segment_ids.reshape(-1).long())]


def _tile(sample: ImageSample, annotation: PanopticAnnotation, vocabulary: Vocabulary) -> Image.Image:
    """The picture above its truth in colors, with its id."""
    rng = np.random.default_rng(0)
    palette = rng.integers(40, 230, (len(vocabulary) + 1, 3))
    for index, category in enumerate(vocabulary.categories):
        palette[index + 1] = category.color or palette[index + 1]
    palette[0] = 0
    of_segment = np.array([0, *(s.category_id + 1 for s in annotation.segments)])
    colors = palette[of_segment[_numbered(annotation).numpy()]].reshape(*annotation.segment_ids.shape, 3)
    picture = Image.new("RGB", (TILE, 2 * TILE), "white")
    for top, pixels in ((0, sample.image.permute(1, 2, 0).numpy()), (TILE, colors.astype(np.uint8))):
        small = Image.fromarray(np.ascontiguousarray(pixels))
        small.thumbnail((TILE - 8, TILE - 20), Image.Resampling.BILINEAR if top == 0 else Image.Resampling.NEAREST)
        picture.paste(small, (4, top + 16))
    ImageDraw.Draw(picture).text((4, 2), sample.image_id[:36], fill="black")
    return picture


def _sheet(tiles: list[Image.Image]) -> bytes:
    if not tiles:
        return b""
    columns = min(4, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * TILE, rows * 2 * TILE), "white")
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % columns * TILE, number // columns * 2 * TILE))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()

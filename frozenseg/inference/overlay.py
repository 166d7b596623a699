"""Results drawn over their image: coloured regions with white outlines, names on them, and a legend below.

Shape legend: h w pixels of the image, N regions. A small picture is enlarged first, so that names can be read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from torch import Tensor

from frozenseg.inference.fonts import Font, font_for
from frozenseg.inference.palette import VOID_COLOR, Color, category_colors, instance_color
from frozenseg.types import Instances, SegmentationOutput, Vocabulary

NONE_OF_THESE = "none of these"
_OPACITY = 0.55
_SMALLEST_DRAWN_SIDE = 640
_LARGEST_DRAWN_SIDE = 2000
_PAPER = (255, 255, 255)
_INK = (25, 25, 25)
_ALARM = (190, 20, 20)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Region:
    """One coloured area: mask [h,w] bool; category: contiguous id, or -1 for none of these; label: written on it."""

    mask: NDArray[np.bool_]
    category: int
    color: Color
    label: str = ""


def draw_panoptic(image: Tensor, result: SegmentationOutput, vocabulary: Vocabulary, notice: str = "") -> Image.Image:
    """Segments over their image, things with their scores.

    Args:
        image: [3,h,w] uint8 RGB at the result's size.
        result: ids index `vocabulary`.
        notice: a warning written above the picture.
    """
    ids = result.segment_ids.cpu().numpy()
    colors = category_colors(vocabulary)
    seen: Counter[int] = Counter()
    regions = [_void_region(ids == 0)]
    for segment in sorted(result.segments, key=lambda s: -s.area):
        name = vocabulary.categories[segment.category_id].name
        color = instance_color(colors[segment.category_id], seen[segment.category_id] if segment.is_thing else 0)
        seen[segment.category_id] += 1
        label = f"{name} {segment.score:.2f}" if segment.is_thing else name
        regions.append(Region(mask=ids == segment.id, category=segment.category_id, color=color, label=label))
    return _draw(image, regions, vocabulary, notice)


def draw_semantic(image: Tensor, labels: Tensor, vocabulary: Vocabulary, notice: str = "") -> Image.Image:
    """labels [h,w] int64 contiguous category ids, -1 for none of these, over the image [3,h,w] uint8."""
    values = labels.cpu().numpy()
    colors = category_colors(vocabulary)
    regions = [_void_region(values < 0)]
    for category in np.unique(values[values >= 0]).tolist():
        name = vocabulary.categories[category].name
        regions.append(Region(mask=values == category, category=category, color=colors[category], label=name))
    return _draw(image, regions, vocabulary, notice)


def draw_instances(image: Tensor, result: Instances, vocabulary: Vocabulary, notice: str = "") -> Image.Image:
    """Instances over the image [3,h,w] uint8; where they overlap, the better one is on top."""
    colors = category_colors(vocabulary)
    seen: Counter[int] = Counter()
    regions = []
    for mask, category, score in zip(
        result.masks.cpu().numpy(), result.category_ids.tolist(), result.scores.tolist(), strict=True
    ):
        label = f"{vocabulary.categories[category].name} {score:.2f}"
        color = instance_color(colors[category], seen[category])
        seen[category] += 1
        regions.append(Region(mask=mask, category=category, color=color, label=label))
    return _draw(image, regions[::-1], vocabulary, notice)


def _void_region(mask: NDArray[np.bool_]) -> Region:
    return Region(mask=mask, category=-1, color=VOID_COLOR)


def _draw(image: Tensor, regions: Sequence[Region], vocabulary: Vocabulary, notice: str) -> Image.Image:
    regions = [region for region in regions if region.mask.any()]
    pixels = image.cpu().permute(1, 2, 0).numpy()
    scale = _scale(pixels.shape[0], pixels.shape[1])
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    picture = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)).astype(np.float32)
    masks = [_resize(region.mask, size) for region in regions]
    for region, mask in zip(regions, masks, strict=True):
        opacity = _OPACITY if region.category >= 0 else 0.35
        picture[mask] = (1 - opacity) * picture[mask] + opacity * np.asarray(region.color, np.float32)
    for region, mask in zip(regions, masks, strict=True):
        if region.category >= 0:
            picture[_outline(mask, max(1, round(min(size) / 400)))] = 255.0
    canvas = Image.fromarray(picture.round().astype(np.uint8))
    legend = _legend(regions, vocabulary)
    texts = [text for _, text in legend] + [region.label for region in regions] + [notice]
    font = font_for(texts, size=max(11, round(min(max(size), 1400) / 55)))
    _write_names(canvas, regions, masks, font)
    return _frame(canvas, legend, notice, font)


def _scale(height: int, width: int) -> float:
    longest = max(height, width)
    if longest < _SMALLEST_DRAWN_SIDE:
        return _SMALLEST_DRAWN_SIDE / longest
    return min(1.0, _LARGEST_DRAWN_SIDE / longest)


def _resize(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    if mask.shape == (size[1], size[0]):
        return mask
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def _outline(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """The mask's own border pixels; the image's edge is no border."""
    inner: NDArray[np.bool_] = ndimage.binary_erosion(mask, iterations=width, border_value=1)
    return mask & ~inner


def _write_names(
    canvas: Image.Image, regions: Sequence[Region], masks: Sequence[NDArray[np.bool_]], font: Font
) -> None:
    """Each label where its region is widest, largest regions first; one that fits nowhere is left to the legend."""
    draw = ImageDraw.Draw(canvas, "RGBA")
    taken: list[tuple[float, float, float, float]] = []
    for index in sorted(range(len(regions)), key=lambda i: -int(masks[i].sum())):
        label = regions[index].label
        if not label:
            continue
        row, column, room = _widest_place(masks[index])
        left, top, right, bottom = draw.textbbox((0, 0), label, font=font)
        width, height = right - left + 8, bottom - top + 6
        if room < height * 0.5:
            continue
        x = min(max(column - width / 2, 1), max(canvas.width - width - 1, 1))
        y = min(max(row - height / 2, 1), max(canvas.height - height - 1, 1))
        box = (x, y, x + width, y + height)
        if any(box[0] < t[2] and t[0] < box[2] and box[1] < t[3] and t[1] < box[3] for t in taken):
            continue
        taken.append(box)
        draw.rounded_rectangle(box, radius=4, fill=(0, 0, 0, 165))
        draw.text((x + 4 - left, y + 3 - top), label, font=font, fill=(255, 255, 255, 255))


def _widest_place(mask: NDArray[np.bool_]) -> tuple[float, float, float]:
    """(row, column, distance to the border) of the pixel farthest from the border, on a grid of at most 200."""
    step = max(1, max(mask.shape) // 200)
    small = np.pad(mask[::step, ::step], 1)
    distance = ndimage.distance_transform_edt(small)
    row, column = np.unravel_index(int(np.argmax(distance)), distance.shape)
    return (float(row) - 0.5) * step, (float(column) - 0.5) * step, float(distance[row, column]) * step


def _legend(regions: Sequence[Region], vocabulary: Vocabulary) -> list[tuple[Color, str]]:
    """(colour, text) of the categories that occur, largest first, with their count and share of the image."""
    colors = category_colors(vocabulary)
    area: Counter[int] = Counter()
    count: Counter[int] = Counter()
    for region in regions:
        area[region.category] += int(region.mask.sum())
        count[region.category] += 1
    entries = []
    for category, pixels in area.most_common():
        share = 100 * pixels / max(regions[0].mask.size, 1)
        percent = f"{share:.0f} %" if share >= 1 else "< 1 %"
        if category < 0:
            entries.append((VOID_COLOR, f"{NONE_OF_THESE}  {percent}"))
            continue
        item = vocabulary.categories[category]
        times = f" ({count[category]})" if item.is_thing and count[category] > 1 else ""
        entries.append((colors[category], f"{item.name}{times}  {percent}"))
    return entries


def _frame(picture: Image.Image, entries: Sequence[tuple[Color, str]], notice: str, font: Font) -> Image.Image:
    """The picture with its notice above and its legend, in columns, below."""
    measure = ImageDraw.Draw(picture)
    line = round(measure.textbbox((0, 0), "Ag|", font=font)[3] * 1.5)
    texts = [text for _, text in entries] or ["nothing found"]
    column = max(round(measure.textlength(text, font=font)) for text in texts) + 2 * line
    columns = max(1, min(picture.width // column, len(texts)))
    rows = -(-len(texts) // columns)
    head = round(line * 1.4) if notice else 0
    width = max(picture.width, column + line)
    canvas = Image.new("RGB", (width, picture.height + head + (rows + 1) * line), _PAPER)
    draw = ImageDraw.Draw(canvas)
    if notice:
        draw.rectangle((0, 0, width, head), fill=_ALARM)
        draw.text((line / 2, head / 2), notice, font=_fitting(notice, font, width - line), fill=_PAPER, anchor="lm")
    canvas.paste(picture, (0, head))
    top = head + picture.height + line // 2
    for index, text in enumerate(texts):
        x = line // 2 + (index // rows) * column
        y = top + (index % rows) * line
        if entries:
            swatch = (x, y + line * 0.15, x + line * 0.8, y + line * 0.85)
            draw.rounded_rectangle(swatch, radius=3, fill=entries[index][0], outline=_INK)
        draw.text((x + line * 1.1, y + line / 2), text, font=font, fill=_INK, anchor="lm")
    return canvas


def _fitting(text: str, font: Font, width: float) -> Font:
    """The font, smaller where the text would be cut off."""
    length = font.getlength(text)
    if length <= width or not isinstance(font, ImageFont.FreeTypeFont):
        return font
    return font.font_variant(size=max(7, int(font.size * width / length)))


def to_picture(image: Tensor) -> Image.Image:
    """[3,h,w] uint8 RGB as a PIL picture."""
    return Image.fromarray(image.to(torch.uint8).cpu().permute(1, 2, 0).numpy())

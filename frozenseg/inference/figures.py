"""Figures that people look at: heat over an image, clusters of features, curves, and panels side by side.

Shape legend: h w pixels of the image.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.cluster.vq import kmeans2
from torch import Tensor

from frozenseg.inference.palette import Color

PAPER, INK, GRID = (255, 255, 255), (25, 25, 25), (220, 220, 220)
PANEL_WIDTH = 400
TITLE_HEIGHT = 26
CURVE_COLORS: tuple[Color, ...] = ((31, 119, 180), (214, 39, 40), (44, 160, 44), (148, 103, 189), (255, 127, 14))
HEAT = np.array([(13, 8, 135), (126, 3, 168), (204, 71, 120), (248, 149, 64), (240, 249, 33)], dtype=np.float32)
"""Dark to bright, in even steps of lightness."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A named line; dashed for what is to be told apart from a solid one of the same color."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    color: Color
    dashed: bool = False


def picture_of(image: Tensor) -> Image.Image:
    """[3,h,w] uint8 RGB."""
    return Image.fromarray(np.ascontiguousarray(image.cpu().permute(1, 2, 0).numpy()))


def heat_over(image: Tensor, values: Tensor) -> Image.Image:
    """values [h,w] float, not negative, laid over the image [3,h,w] uint8: bright where they are greatest."""
    share = (values / values.max().clamp(min=1e-12)).clamp(0, 1).numpy()
    position = share * (len(HEAT) - 1)
    low = np.floor(position).astype(int).clip(max=len(HEAT) - 2)
    color = HEAT[low] + (position - low)[:, :, None] * (HEAT[low + 1] - HEAT[low])
    gray = image.cpu().float().mean(0).numpy()[:, :, None]
    return Image.fromarray((0.45 * gray + 0.55 * color).round().astype(np.uint8))


def clusters(features: Tensor, num_clusters: int, seed: int = 0) -> NDArray[np.int64]:
    """[h,w] cluster of each place of features [C,h,w], by k-means; clusters are numbered by size, largest first."""
    channels, height, width = features.shape
    rows = features.float().cpu().reshape(channels, -1).T.numpy()
    rows = (rows - rows.mean(0)) / (rows.std(0) + 1e-6)
    _, labels = kmeans2(rows, num_clusters, minit="++", seed=np.random.default_rng(seed), missing="warn")
    order = np.argsort(-np.bincount(labels, minlength=num_clusters), kind="stable")
    numbered: NDArray[np.int64] = np.argsort(order)[labels].reshape(height, width)
    return numbered


def draw_clusters(labels: NDArray[np.int64], colors: Sequence[Color]) -> Image.Image:
    """One color per cluster, a pixel a place."""
    return Image.fromarray(np.array(colors, dtype=np.uint8)[labels])


def side_by_side(panels: Sequence[tuple[str, Image.Image]], notice: str = "") -> Image.Image:
    """Panels of one width with a title above each; `notice` in red above all, where weights are random."""
    font = ImageFont.load_default(size=16)
    scaled = []
    for _, picture in panels:
        height = max(1, round(picture.height * PANEL_WIDTH / picture.width))
        filter_ = Image.Resampling.NEAREST if picture.width < PANEL_WIDTH else Image.Resampling.LANCZOS
        scaled.append(picture.convert("RGB").resize((PANEL_WIDTH, height), filter_))
    top = TITLE_HEIGHT if notice else 0
    width = sum(picture.width for picture in scaled) + 8 * (len(scaled) + 1)
    sheet = Image.new("RGB", (width, top + TITLE_HEIGHT + max(p.height for p in scaled) + 8), PAPER)
    draw = ImageDraw.Draw(sheet)
    if notice:
        draw.text((8, 4), notice, fill=(190, 20, 20), font=font)
    left = 8
    for (title, _), picture in zip(panels, scaled, strict=True):
        draw.text((left, top + 4), _fitting(title, picture.width, font), fill=INK, font=font)
        sheet.paste(picture, (left, top + TITLE_HEIGHT))
        left += picture.width + 8
    return sheet


def _fitting(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    while len(text) > 1 and font.getlength(text) > width:
        text = text[:-2] + "…"
    return text


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """One below the other."""
    sheet = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), PAPER)
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height
    return sheet


def draw_curves(curves: Sequence[Curve], x_name: str, y_name: str) -> Image.Image:
    """Lines over a grid; y from 0 to 1, x over what the curves span."""
    size, left, top, right, bottom = (900, 560), 70, 46, 230, 60
    width, height = size[0] - left - right, size[1] - top - bottom
    font = ImageFont.load_default(size=15)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    low, high = min(min(c.x) for c in curves), max(max(c.x) for c in curves)

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (x - low) / max(high - low, 1e-9) * width, top + (1 - y) * height

    for step in range(6):
        (x0, y0), (x1, _) = place(low, step / 5), place(high, step / 5)
        draw.line((x0, y0, x1, y0), fill=GRID)
        draw.text((left - 40, y0 - 9), f"{step / 5:.1f}", fill=INK, font=font)
        x = low + (high - low) * step / 5
        (x0, y0), (_, y1) = place(x, 0), place(x, 1)
        draw.line((x0, y0, x0, y1), fill=GRID)
        draw.text((x0 - 14, y0 + 8), f"{x:.2f}", fill=INK, font=font)
    draw.text((left, 14), y_name, fill=INK, font=font)
    draw.text((left + width / 2 - 60, size[1] - 28), x_name, fill=INK, font=font)
    for number, curve in enumerate(curves):
        points = [place(x, y) for x, y in zip(curve.x, curve.y, strict=True) if y == y]
        for start, end in itertools.pairwise(points):
            _line(draw, start, end, curve)
        middle = top + 12 + 24 * number
        start, end = (left + width + 16, middle), (left + width + 46, middle)
        _line(draw, start, end, curve)
        draw.text((left + width + 52, middle - 9), _fitting(curve.name, right - 58, font), fill=INK, font=font)
    return sheet


def _line(draw: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float], curve: Curve) -> None:
    if not curve.dashed:
        draw.line((*start, *end), fill=curve.color, width=3)
        return
    length = max(1.0, ((end[0] - start[0]) ** 2 + (end[1] - start[1]) ** 2) ** 0.5)
    for begin in np.arange(0, length, 12):
        stop = min(begin + 7, length)
        first, last = (
            tuple(s + (e - s) * part / length for s, e in zip(start, end, strict=True)) for part in (begin, stop)
        )
        draw.line((*first, *last), fill=curve.color, width=3)


def upsampled(values: Tensor, size: tuple[int, int]) -> Tensor:
    """[h,w] brought bilinearly to `size`."""
    return torch.nn.functional.interpolate(values[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]

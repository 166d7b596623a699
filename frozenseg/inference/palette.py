"""Colours that stay apart: of categories in a legend, and of instances of one category."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray

from frozenseg.types import Category, Vocabulary

Color = tuple[int, int, int]

VOID_COLOR: Color = (150, 150, 150)
_VARIATIONS = ((0.0, 0.0), (0.14, 0.02), (-0.1, -0.02), (0.07, -0.05), (-0.05, 0.05), (0.2, -0.02), (-0.15, 0.03))
_GOLDEN = 0.618033988749895
_NUM_CANDIDATES = 96
_FAR_ENOUGH = 90.0
"""Of `_distances`: black and white are 765 apart; two colours at this distance are told apart side by side."""

# A legend is read faster when grass is green. Only a hint: colours of one vocabulary stay apart all the same.
_NATURAL: dict[str, Color] = {
    "red": (222, 45, 45), "orange": (240, 130, 30), "yellow": (242, 200, 25), "green": (40, 165, 70),
    "blue": (40, 95, 215), "purple": (140, 70, 200), "pink": (240, 120, 180), "brown": (140, 85, 45),
    "black": (45, 45, 50), "white": (225, 225, 225), "grass": (120, 190, 60), "lawn": (120, 190, 60),
    "tree": (30, 125, 60), "plant": (60, 160, 80), "water": (35, 150, 200), "sea": (25, 120, 190),
    "river": (60, 160, 215), "lake": (50, 140, 205), "sky": (120, 195, 245), "sand": (225, 195, 130),
    "snow": (205, 225, 240), "brick": (185, 80, 60), "wood": (165, 110, 60), "road": (110, 100, 125),
    "street": (110, 100, 125), "mountain": (140, 125, 110), "fire": (235, 90, 20), "gold": (215, 170, 40),
}  # fmt: skip


def category_colors(vocabulary: Vocabulary) -> list[Color]:
    """One colour per category: the data set's own where all categories have one, else colours that are far apart, near
    a name's natural one where it has any (`grass`, `red button`). The same vocabulary always gets the same colours."""
    own = [category.color for category in vocabulary.categories]
    given = [color for color in own if color is not None]
    if len(given) == len(own) and len(set(given)) == len(own):
        return given
    hints = [_natural_color(category) for category in vocabulary.categories]
    chosen: dict[int, Color] = {}
    taken: list[Color] = [VOID_COLOR]
    for index in sorted(range(len(hints)), key=lambda i: hints[i] is None):
        hint = hints[index]
        if hint is None and len(taken) > _NUM_CANDIDATES:
            color = _spread(index)
        else:
            color = _pick(_SPREAD if hint is None else _shades(hint), taken[:_NUM_CANDIDATES])
        chosen[index] = color
        taken.append(color)
    return [chosen[index] for index in range(len(hints))]


def instance_color(color: Color, number: int) -> Color:
    """The colour of a category's `number`-th instance: its hue, lighter or darker or a little turned; 0 keeps it."""
    return _varied(color, *_VARIATIONS[number % len(_VARIATIONS)])


def _natural_color(category: Category) -> Color | None:
    """Of the first word in the category's names that has one."""
    words = (word for name in category.names for word in name.lower().replace("-", " ").split())
    return next((_NATURAL[word] for word in words if word in _NATURAL), None)


def _shades(color: Color) -> list[Color]:
    """The colour itself first, then its neighbours."""
    return [_varied(color, lighter, turn) for turn in (0.0, 0.03, -0.03) for lighter in (0.0, 0.14, -0.12, 0.24)]


def _varied(color: Color, lighter: float, turn: float) -> Color:
    if (lighter, turn) == (0.0, 0.0):
        return color
    hue, lightness, saturation = colorsys.rgb_to_hls(*(channel / 255 for channel in color))
    lightness = min(max(lightness + lighter, 0.22), 0.82)
    red, green, blue = colorsys.hls_to_rgb((hue + turn) % 1, lightness, saturation)
    return round(red * 255), round(green * 255), round(blue * 255)


def _pick(candidates: list[Color], taken: list[Color]) -> Color:
    """The first candidate that is far enough from all taken colours, else the one that is farthest from them."""
    distances = _distances(np.array(candidates, np.float64), np.array(taken, np.float64)).min(axis=1)
    enough = np.flatnonzero(distances >= _FAR_ENOUGH)
    return candidates[int(enough[0] if enough.size else distances.argmax())]


def _distances(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """[n,m] perceived distance of sRGB colours: weights of the channels by how red the pair is ("redmean")."""
    difference = left[:, None] - right[None]
    redness = (left[:, None, 0] + right[None, :, 0]) / 512
    weights = np.stack([2 + redness, np.full_like(redness, 4.0), 3 - redness], axis=-1)
    distances: NDArray[np.float64] = np.sqrt((weights * difference**2).sum(axis=-1))
    return distances


def _spread(index: int) -> Color:
    """Hues a golden angle apart, with three tiers of brightness so that near hues still differ."""
    hue = (0.02 + index * _GOLDEN) % 1.0
    value = (0.95, 0.7, 0.85)[index % 3]
    saturation = (0.75, 0.9, 0.55)[(index // 3) % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


_SPREAD = [_spread(index) for index in range(_NUM_CANDIDATES)]

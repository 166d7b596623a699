"""Colours that stay apart: of categories in a legend, and of instances of one category."""

from __future__ import annotations

import colorsys

from frozenseg.types import Vocabulary

Color = tuple[int, int, int]

VOID_COLOR: Color = (150, 150, 150)
_GOLDEN = 0.618033988749895
_VARIATIONS = ((0.0, 0.0), (0.14, 0.02), (-0.1, -0.02), (0.07, -0.05), (-0.05, 0.05), (0.2, -0.02), (-0.15, 0.03))


def category_colors(vocabulary: Vocabulary) -> list[Color]:
    """One colour per category: the data set's own where all categories have one, else hues a golden angle apart."""
    own = [category.color for category in vocabulary.categories]
    given = [color for color in own if color is not None]
    if len(given) == len(own) and len(set(given)) == len(own):
        return given
    return [_spread(index) for index in range(len(own))]


def instance_color(color: Color, number: int) -> Color:
    """The colour of a category's `number`-th instance: its hue, lighter or darker or a little turned; 0 keeps it."""
    lighter, turn = _VARIATIONS[number % len(_VARIATIONS)]
    if (lighter, turn) == (0.0, 0.0):
        return color
    hue, lightness, saturation = colorsys.rgb_to_hls(*(channel / 255 for channel in color))
    lightness = min(max(lightness + lighter, 0.22), 0.82)
    red, green, blue = colorsys.hls_to_rgb((hue + turn) % 1, lightness, saturation)
    return round(red * 255), round(green * 255), round(blue * 255)


def _spread(index: int) -> Color:
    """Hues a golden angle apart, with three tiers of brightness so that near hues still differ."""
    hue = (0.02 + index * _GOLDEN) % 1.0
    value = (0.95, 0.7, 0.85)[index % 3]
    saturation = (0.75, 0.9, 0.55)[(index // 3) % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)

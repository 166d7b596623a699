"""The 23 categories of the miniature world, which of them the decoder is trained on, and the outlines of things.

The category of a segment is its local look (colour and pattern, or the texture of stuff); its outline is a
nuisance that carries no information about the category.
"""

from __future__ import annotations

from frozenseg.types import Category, Vocabulary

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 44, 48),
    "blue": (46, 96, 216),
    "green": (44, 164, 78),
    "yellow": (242, 202, 48),
}
PATTERNS: tuple[str, ...] = ("button", "candy", "cookie", "flag")
"""Plain, striped, dotted, checkered."""
STUFF_COLORS: dict[str, tuple[int, int, int]] = {
    "grass": (120, 170, 80),
    "water": (60, 130, 190),
    "sand": (220, 195, 140),
    "sky": (160, 205, 245),
    "wood": (150, 100, 60),
    "brick": (170, 85, 65),
    "snow": (236, 240, 248),
}
NOVEL_NAMES: frozenset[str] = frozenset(
    {f"{color} flag" for color in COLORS} | {"red candy", "blue cookie", "yellow button", "brick", "snow"}
)
SEEN_OUTLINES: tuple[str, ...] = ("disc", "square", "triangle", "hexagon", "heart", "pill", "flower", "drop")
HELD_BACK_OUTLINES: tuple[str, ...] = ("star", "cross", "crescent", "diamond")
SEEN_LAYOUTS: tuple[str, ...] = ("waves", "slope", "hill")
HELD_BACK_LAYOUTS: tuple[str, ...] = ("zigzag",)
"""Outlines of things, and the borders between regions of stuff, that decoder training never shows."""

_SHADES = {"button": 1.0, "candy": 0.85, "cookie": 0.68, "flag": 0.5}


def _thing_colors(color: str, pattern: str) -> tuple[int, int, int]:
    red, green, blue = COLORS[color]
    shade = _SHADES[pattern]
    return int(red * shade), int(green * shade), int(blue * shade)


def _all_categories() -> tuple[Category, ...]:
    things = [(f"{color} {pattern}", _thing_colors(color, pattern)) for color in COLORS for pattern in PATTERNS]
    named = [(name, color, True) for name, color in things] + [(n, c, False) for n, c in STUFF_COLORS.items()]
    return tuple(
        Category(name=name, is_thing=is_thing, dataset_id=number, color=color)
        for number, (name, color, is_thing) in enumerate(named, start=1)
    )


def full_vocabulary() -> Vocabulary:
    """All 23 categories: 16 things, then 7 kinds of stuff; data set ids 1 to 23."""
    return Vocabulary(categories=_all_categories(), name="miniature")


def training_vocabulary() -> Vocabulary:
    """The 14 base categories that decoder training annotates, with their data set ids of the full vocabulary."""
    kept = tuple(category for category in _all_categories() if category.name not in NOVEL_NAMES)
    return Vocabulary(categories=kept, name="miniature-base")

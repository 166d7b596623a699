"""Outlines of things and borders between stuff, as plain tests on coordinates (no libm).

Coordinates of a thing: u to the right, v down, 1 is the thing's radius, already rotated.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from frozenseg.miniature.dice import Dice
from frozenseg.miniature.textures import COLUMNS, ROWS, Array, turn_vector, wave

Mask = NDArray[np.bool_]


def _half_planes(u: Array, v: Array, sides: int, distance: float) -> NDArray[np.int64]:
    """How many of the `sides` half-planes at `distance` from the centre hold each point."""
    count = np.zeros(u.shape, dtype=np.int64)
    for side in range(sides):
        cosine, sine = turn_vector((side + 0.25) / sides)
        count += u * np.float32(cosine) + v * np.float32(sine) < distance
    return count


def _disc(u: Array, v: Array) -> Mask:
    return u * u + v * v < 0.86


def _square(u: Array, v: Array) -> Mask:
    a, b = u * u, v * v
    return a * a * a + b * b * b < 0.34  # type: ignore[no-any-return]


def _triangle(u: Array, v: Array) -> Mask:
    return _half_planes(u, v, 3, 0.52) == 3  # type: ignore[no-any-return]


def _hexagon(u: Array, v: Array) -> Mask:
    return _half_planes(u, v, 6, 0.84) == 6  # type: ignore[no-any-return]


def _heart(u: Array, v: Array) -> Mask:
    x, y = u * 1.22, -v * 1.22 + 0.12
    inner = x * x + y * y - 1
    return inner * inner * inner - x * x * y * y * y < 0  # type: ignore[no-any-return]


def _pill(u: Array, v: Array) -> Mask:
    beyond = np.maximum(np.abs(u) - np.float32(0.5), np.float32(0))
    return beyond * beyond + v * v < 0.27  # type: ignore[no-any-return]


def _flower(u: Array, v: Array) -> Mask:
    inside = u * u + v * v < 0.3
    for petal in range(5):
        cosine, sine = turn_vector(petal / 5)
        x, y = u - np.float32(0.58 * cosine), v - np.float32(0.58 * sine)
        inside |= x * x + y * y < 0.155
    return inside


def _drop(u: Array, v: Array) -> Mask:
    low = v - np.float32(0.28)
    return (u * u + low * low < 0.45) | ((np.abs(u) < (v + 1) * 0.55) & (v < 0.1) & (v > -1))


def _star(u: Array, v: Array) -> Mask:
    return _half_planes(u, v, 5, 0.36) >= 4


def _cross(u: Array, v: Array) -> Mask:
    a, b = np.abs(u), np.abs(v)
    return ((a < 0.34) & (b < 0.95)) | ((b < 0.34) & (a < 0.95))


def _crescent(u: Array, v: Array) -> Mask:
    right = u - np.float32(0.5)
    return (u * u + v * v < 1.0) & (right * right + v * v > 0.5)  # type: ignore[no-any-return]


def _diamond(u: Array, v: Array) -> Mask:
    return np.abs(u) * 1.45 + np.abs(v) < 1.0


OUTLINES: dict[str, Callable[[Array, Array], Mask]] = {
    "disc": _disc,
    "square": _square,
    "triangle": _triangle,
    "hexagon": _hexagon,
    "heart": _heart,
    "pill": _pill,
    "flower": _flower,
    "drop": _drop,
    "star": _star,
    "cross": _cross,
    "crescent": _crescent,
    "diamond": _diamond,
}


def _smooth_border(dice: Dice, level: float) -> Array:
    bumps = dice.integer(1, 2)
    bent = COLUMNS * bumps + dice.unit()
    return (  # type: ignore[no-any-return]
        ROWS - level - dice.between(0.02, 0.07) * wave(bent) - dice.between(0.0, 0.03) * wave(COLUMNS * 3 + dice.unit())
    )


def _zigzag_border(dice: Dice, level: float) -> Array:
    turn = COLUMNS * dice.between(2, 4) + dice.unit()
    tooth = np.abs(turn - np.floor(turn) - np.float32(0.5)) * 2
    return ROWS - level - dice.between(0.12, 0.22) * (tooth - np.float32(0.5))  # type: ignore[no-any-return]


def _hill_border(dice: Dice, level: float) -> Array:
    x = COLUMNS - np.float32(dice.between(0.1, 0.9))
    radius = dice.between(0.5, 0.9)
    y = ROWS - np.float32(level - 0.12 + radius)
    return np.float32(radius * radius) - x * x - y * y  # type: ignore[no-any-return]


def border(dice: Dice, layout: str, level: float) -> Array:
    """[S,S], positive below (in front of) a border that runs across the picture near height `level` in [0,1]."""
    if layout == "zigzag":
        return _zigzag_border(dice, level)
    if layout == "hill":
        return _hill_border(dice, level)
    smooth = _smooth_border(dice, level)
    if layout == "slope":
        return smooth + np.float32(dice.choose((-1, 1)) * dice.between(0.25, 0.6)) * (COLUMNS - np.float32(0.5))  # type: ignore[no-any-return]
    return smooth

"""Looks of the miniature world: textures of stuff and patterns of things.

Only +, -, *, /, floor and table look-ups on float32: IEEE gives the same bits for these everywhere, while sin, exp and
pow of an array may differ between processors. Shape legend: S side of the canvas (twice the scene's).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from frozenseg.miniature.dice import Dice

Array = NDArray[np.float32]
CANVAS = 256
"""Scenes are painted at twice their size and averaged down, which smooths every edge."""

_TABLE_SIZE = 1024
# Rounded to 2^-16 so that a last-bit difference between libms cannot show.
_SINE = np.array(
    [round(math.sin(2 * math.pi * i / _TABLE_SIZE) * 65536) / 65536 for i in range(_TABLE_SIZE)], dtype=np.float32
)
ROWS, COLUMNS = np.meshgrid(
    np.arange(CANVAS, dtype=np.float32) / np.float32(CANVAS),
    np.arange(CANVAS, dtype=np.float32) / np.float32(CANVAS),
    indexing="ij",
)


def wave(turns: Array) -> Array:
    """Sine of `turns` full circles, in [-1,1]."""
    return _SINE[(turns * np.float32(_TABLE_SIZE)).astype(np.int32) & (_TABLE_SIZE - 1)]  # type: ignore[no-any-return]


def turn_vector(turns: float) -> tuple[float, float]:
    """(cosine, sine) of `turns` full circles, from the table."""
    step = int(turns * _TABLE_SIZE)
    return float(_SINE[(step + _TABLE_SIZE // 4) % _TABLE_SIZE]), float(_SINE[step % _TABLE_SIZE])


def _lerp_axis(cells: int) -> tuple[NDArray[np.int64], Array]:
    position = np.arange(CANVAS, dtype=np.float32) * np.float32(cells / CANVAS)
    low = position.astype(np.int64)
    part = position - low.astype(np.float32)
    return low, part * part * (np.float32(3) - np.float32(2) * part)


def value_noise(dice: Dice, rows: int, columns: int) -> Array:
    """[S,S] smooth noise in [0,1] with `rows` x `columns` cells."""
    grid = dice.units(rows + 1, columns + 1)
    low_row, row_part = _lerp_axis(rows)
    low_column, column_part = _lerp_axis(columns)
    part = row_part[:, None]
    bands = grid[low_row] + (grid[low_row + 1] - grid[low_row]) * part
    left = bands[:, low_column]
    return left + (bands[:, low_column + 1] - left) * column_part


def _clip01(values: Array) -> Array:
    return np.clip(values, np.float32(0), np.float32(1))


def blend(share: Array, low: tuple[float, float, float], high: tuple[float, float, float]) -> Array:
    """[S,S,3]: `low` where share is 0, `high` where it is 1."""
    start = np.array(low, dtype=np.float32)
    step = np.array(high, dtype=np.float32) - start
    return start + share[:, :, None] * step


def _grass(dice: Dice) -> Array:
    blades = value_noise(dice, 24, 100)
    share = 0.45 * value_noise(dice, 7, 7) + 0.55 * blades
    return blend(share, (46, 104, 34), (146, 196, 84))


def _water(dice: Dice) -> Array:
    bent = ROWS * dice.between(9, 14) + 0.9 * value_noise(dice, 5, 4) + 0.25 * value_noise(dice, 14, 10)
    ripple = wave(bent)
    picture = blend(_clip01(0.5 + 0.35 * ripple + 0.2 * (value_noise(dice, 4, 4) - 0.5)), (24, 84, 158), (78, 164, 208))
    return picture + (_clip01((ripple - 0.82) * 5) * 60)[:, :, None]


def _sand(dice: Dice) -> Array:
    ripple = wave(ROWS * dice.between(5, 8) + COLUMNS * dice.between(-2, 2) + 8 + 0.7 * value_noise(dice, 4, 5))
    share = 0.35 + 0.12 * ripple + 0.35 * value_noise(dice, 110, 110) + 0.2 * value_noise(dice, 5, 5)
    return blend(share, (196, 160, 102), (240, 214, 158))


def _sky(dice: Dice) -> Array:
    fluff = 0.55 * value_noise(dice, 4, 3) + 0.3 * value_noise(dice, 9, 6) + 0.15 * value_noise(dice, 20, 14)
    clouds = _clip01((fluff - dice.between(0.46, 0.58)) * 4.5)
    clear = blend(ROWS, (84, 156, 236), (184, 220, 250))
    return clear + (np.float32(250) - clear) * (clouds * 0.92)[:, :, None]


def _wood(dice: Dice) -> Array:
    boards = dice.integer(5, 8)
    across = ROWS * boards
    board = across.astype(np.int32)
    edge = across - board.astype(np.float32)
    shift = dice.units(boards + 1)[board]
    grain = wave(across * 3.0 + 3.0 * shift + 1.3 * value_noise(dice, 10, 3))
    fine = value_noise(dice, 120, 10)
    picture = blend(_clip01(0.3 + 0.2 * grain + 0.25 * fine + 0.3 * shift), (112, 68, 36), (196, 142, 90))
    return picture * (1 - 0.55 * (edge < 0.07).astype(np.float32))[:, :, None]  # type: ignore[no-any-return]


def _brick(dice: Dice) -> Array:
    height, length = dice.between(15, 19) / CANVAS, dice.between(34, 42) / CANVAS
    across = ROWS / np.float32(height) + dice.unit()
    course = across.astype(np.int32)
    along = COLUMNS / np.float32(length) + 0.5 * (course & 1).astype(np.float32) + dice.unit()
    stone = along.astype(np.int32)
    in_row, in_stone = across - course.astype(np.float32), along - stone.astype(np.float32)
    tint = dice.units(32, 16)[course & 31, stone & 15]
    face = blend(_clip01(0.6 * tint + 0.35 * value_noise(dice, 60, 60)), (138, 52, 38), (206, 104, 78))
    mortar = (in_row < 0.17) | (in_stone < 0.08)
    return np.where(mortar[:, :, None], np.array((206, 198, 184), dtype=np.float32), face).astype(np.float32)


def _snow(dice: Dice) -> Array:
    drifts = 0.6 * value_noise(dice, 4, 3) + 0.4 * value_noise(dice, 9, 7)
    picture = blend(drifts, (206, 218, 238), (254, 254, 255))
    return picture + ((dice.small(CANVAS, CANVAS) > 252).astype(np.float32) * 22)[:, :, None]


STUFF_TEXTURES: dict[str, Callable[[Dice], Array]] = {
    "grass": _grass,
    "water": _water,
    "sand": _sand,
    "sky": _sky,
    "wood": _wood,
    "brick": _brick,
    "snow": _snow,
}
_CREAM = (250.0, 244.0, 234.0)
_CHOCOLATE = (66.0, 40.0, 28.0)


def thing_surface(dice: Dice, pattern: str, color: tuple[float, float, float], across: Array, along: Array) -> Array:
    """[h,w,3] unshaded surface of a thing; `across` and `along` [h,w] are positions in canvas pixels, at least 0."""
    plain = np.empty((*across.shape, 3), dtype=np.float32)
    plain[:] = color
    if pattern == "button":
        return plain
    if pattern == "candy":
        period = dice.between(13, 17)
        turn = across / np.float32(period)
        second, second_color = turn - np.floor(turn) < 0.46, _CREAM
    elif pattern == "cookie":
        period = dice.between(12.5, 16)
        a, b = across / np.float32(period), along / np.float32(period)
        b = b + 0.5 * (a.astype(np.int32) & 1).astype(np.float32)
        a, b = a - np.floor(a) - 0.5, b - np.floor(b) - 0.5
        second, second_color = a * a + b * b < 0.115, _CHOCOLATE
    else:
        period = dice.between(7.5, 10)
        cells = (across / np.float32(period)).astype(np.int32) + (along / np.float32(period)).astype(np.int32)
        second, second_color = (cells & 1) == 1, _CREAM
    plain[second] = second_color
    return plain

"""The miniature world: procedural panoptic scenes, the same to the last bit from a seed on any machine.

A scene is painted on a canvas of twice its size: one to three curved regions of stuff, two to six things with
occlusion, bevel, shadow, lighting, blur and noise. JPEG is the camera's last step and not part of the scene, because
libjpeg versions may differ.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frozenseg.miniature.categories import (
    COLORS,
    HELD_BACK_LAYOUTS,
    HELD_BACK_OUTLINES,
    NOVEL_NAMES,
    SEEN_LAYOUTS,
    SEEN_OUTLINES,
    full_vocabulary,
)
from frozenseg.miniature.dice import Dice
from frozenseg.miniature.outlines import OUTLINES, Mask, border
from frozenseg.miniature.textures import CANVAS, STUFF_TEXTURES, Array, thing_surface, turn_vector

SCENE_SIZE = CANVAS // 2
MIN_AREA = 60
"""Visible scene pixels below which a thing is left out of the scene (a region of stuff becomes void)."""
_MIN_VISIBLE_SHARE = 0.45

Contents = Literal["base", "all"]
"""`base`: only base categories and seen outlines (decoder training). `all`: everything (pre-training, tests)."""

_VOCABULARY = full_vocabulary()
_NAMES = tuple(category.name for category in _VOCABULARY.categories)
_THINGS = tuple(c.name for c in _VOCABULARY.categories if c.is_thing)
_STUFF = tuple(c.name for c in _VOCABULARY.categories if not c.is_thing)


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneSegment:
    """One visible segment. category_id: contiguous in the full vocabulary; outline: of the thing, or the layout of
    the stuff; area in scene pixels."""

    id: int
    category_id: int
    is_thing: bool
    outline: str
    area: int

    @property
    def name(self) -> str:
        return _NAMES[self.category_id]

    @property
    def look_seen(self) -> bool:
        """The category is one of decoder training's."""
        return self.name not in NOVEL_NAMES

    @property
    def outline_seen(self) -> bool:
        """The outline is one of decoder training's."""
        return self.outline in SEEN_OUTLINES or self.outline in SEEN_LAYOUTS


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """image [128,128,3] uint8 RGB before JPEG; segment_ids [128,128] int32, 0 = void; quality: of its JPEG file."""

    image: NDArray[np.uint8]
    segment_ids: NDArray[np.int32]
    segments: tuple[SceneSegment, ...]
    quality: int

    def jpeg(self) -> bytes:
        """The picture as the camera stores it."""
        buffer = io.BytesIO()
        Image.fromarray(self.image).save(buffer, "JPEG", quality=self.quality)
        return buffer.getvalue()

    def photograph(self) -> NDArray[np.uint8]:
        """[128,128,3] uint8: the picture after JPEG, read-only."""
        return np.asarray(Image.open(io.BytesIO(self.jpeg())))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Thing:
    name: str
    outline: str
    top: int
    left: int
    inside: Mask
    u: Array
    v: Array
    dice_key: int


def make_scene(seed: int, index: int, contents: Contents = "all") -> Scene:
    """Scene number `index` of the endless series `seed`."""
    dice = Dice(seed, index, 0 if contents == "base" else 1)
    canvas, regions, layout = _paint_stuff(dice, contents)
    things = _visible_things([_place_thing(dice, contents) for _ in range(dice.integer(2, 6))])
    light = turn_vector(dice.between(0.5, 1.0))
    for thing in things:
        _paint_thing(canvas, thing, light, Dice(seed, index, 2, thing.dice_key))
    image = _camera(canvas, dice)
    segment_ids, segments = _truth(regions, layout, things)
    return Scene(image=image, segment_ids=segment_ids, segments=segments, quality=dice.integer(55, 91))


def _allowed(names: tuple[str, ...], contents: Contents) -> tuple[str, ...]:
    return names if contents == "all" else tuple(name for name in names if name not in NOVEL_NAMES)


def _paint_stuff(dice: Dice, contents: Contents) -> tuple[Array, list[tuple[str, Mask]], str]:
    """The canvas [S,S,3], the regions back to front as (name, mask [S,S] before covering), and the layout's name."""
    count = dice.choose((1, 2, 2, 2, 3, 3))
    names = dice.sample(_allowed(_STUFF, contents), count)
    layout = dice.choose(SEEN_LAYOUTS if contents == "base" else SEEN_LAYOUTS + HELD_BACK_LAYOUTS)
    canvas = STUFF_TEXTURES[names[0]](dice)
    regions: list[tuple[str, Mask]] = [(names[0], np.ones((CANVAS, CANVAS), dtype=np.bool_))]
    flip = dice.unit() < 0.3
    for number, name in enumerate(names[1:], start=1):
        level = (number - 0.1 + dice.between(-0.1, 0.1)) / count
        surface = border(dice, layout, level)
        mask = np.ascontiguousarray((surface.T if flip else surface) > 0)
        canvas = np.where(mask[:, :, None], STUFF_TEXTURES[name](dice), canvas)
        edge = _blurred(mask, 3)
        # A thin dark line on the far side gives the nearer region some height.
        canvas *= (1 - 0.7 * np.where(mask, np.float32(0), edge))[:, :, None]
        regions.append((name, mask))
    return canvas, regions, layout


def _place_thing(dice: Dice, contents: Contents) -> _Thing:
    name = dice.choose(_allowed(_THINGS, contents))
    outline = dice.choose(SEEN_OUTLINES if contents == "base" else SEEN_OUTLINES + HELD_BACK_OUTLINES)
    radius = dice.between(20, 50)
    row, column = dice.between(0.08, 0.92) * CANVAS, dice.between(0.08, 0.92) * CANVAS
    top, left = max(0, int(row - radius * 1.2)), max(0, int(column - radius * 1.2))
    bottom, right = min(CANVAS, int(row + radius * 1.2) + 1), min(CANVAS, int(column + radius * 1.2) + 1)
    cosine, sine = turn_vector(dice.unit())
    y = ((np.arange(top, bottom, dtype=np.float32) - np.float32(row)) / np.float32(radius))[:, None]
    x = ((np.arange(left, right, dtype=np.float32) - np.float32(column)) / np.float32(radius))[None, :]
    u, v = x * np.float32(cosine) + y * np.float32(sine), y * np.float32(cosine) - x * np.float32(sine)
    stretch = dice.between(0.85, 1.18)
    inside = OUTLINES[outline](u * np.float32(stretch), (v / np.float32(stretch)).astype(np.float32, copy=False))
    return _Thing(
        name=name,
        outline=outline,
        top=top,
        left=left,
        inside=inside,
        u=u * np.float32(radius),
        v=v * np.float32(radius),
        dice_key=dice.integer(0, 2**20),
    )


def _scene_mask(thing: _Thing) -> Mask:
    """[128,128]: at least half of the pixel's four canvas cells are covered."""
    full = np.zeros((CANVAS, CANVAS), dtype=np.uint8)
    height, width = thing.inside.shape
    full[thing.top : thing.top + height, thing.left : thing.left + width] = thing.inside
    return _quarter_sums(full) >= 2


def _quarter_sums(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return mask[0::2, 0::2] + mask[1::2, 0::2] + mask[0::2, 1::2] + mask[1::2, 1::2]


def _visible_things(things: list[_Thing]) -> list[_Thing]:
    """Back to front, without those that others nearly hide; decided from the front, so that all that stay are seen."""
    covered = np.zeros((SCENE_SIZE, SCENE_SIZE), dtype=np.bool_)
    kept: list[_Thing] = []
    for thing in reversed(things):
        mask = _scene_mask(thing)
        seen = int((mask & ~covered).sum())
        if seen >= MIN_AREA and seen >= _MIN_VISIBLE_SHARE * int(mask.sum()):
            kept.append(thing)
            covered |= mask
    return kept[::-1]


def _blurred(mask: Mask, radius: int) -> Array:
    """Share of the (2 radius + 1) square around each cell that `mask` covers; outside counts as the nearest edge."""
    side = 2 * radius + 1
    padded = np.pad(mask.astype(np.int32), radius + 1, mode="edge")
    sums = padded.cumsum(0, dtype=np.int32)
    sums = sums[side:] - sums[:-side]
    sums = sums.cumsum(1, dtype=np.int32)
    sums = sums[:, side:] - sums[:, :-side]
    height, width = mask.shape
    return sums[:height, :width].astype(np.float32) / np.float32(side * side)  # type: ignore[no-any-return]


def _paint_thing(canvas: Array, thing: _Thing, light: tuple[float, float], dice: Dice) -> None:
    """Shadow, surface, bevel and highlight, in place. `light` points from the scene to the lamp (right, down)."""
    height, width = thing.inside.shape
    _cast_shadow(canvas, thing, light, dice.between(0.3, 0.5))
    tint = dice.units(3) * 36 - 18
    base = COLORS[thing.name.split()[0]]
    strength = dice.between(0.88, 1.08)
    color = tuple(float((channel + shift) * np.float32(strength)) for channel, shift in zip(base, tint, strict=True))
    cosine, sine = turn_vector(dice.unit())
    far = np.float32(512 + dice.between(0, 32))
    across = thing.u * np.float32(cosine) + thing.v * np.float32(sine) + far
    along = thing.v * np.float32(cosine) - thing.u * np.float32(sine) + far
    pattern = thing.name.split()[1]
    surface = thing_surface(dice, pattern, (color[0], color[1], color[2]), across, along)
    soft = _blurred(thing.inside, 4)
    slope_down = np.zeros_like(soft)
    slope_right = np.zeros_like(soft)
    slope_down[1:-1] = soft[2:] - soft[:-2]
    slope_right[:, 1:-1] = soft[:, 2:] - soft[:, :-2]
    bevel = (slope_right * np.float32(light[0]) + slope_down * np.float32(light[1])) * np.float32(-0.9)
    rows = (np.arange(height, dtype=np.float32) / np.float32(height) - np.float32(0.5))[:, None]
    columns = (np.arange(width, dtype=np.float32) / np.float32(width) - np.float32(0.5))[None, :]
    dome = (columns * np.float32(light[0]) + rows * np.float32(light[1])) * np.float32(0.42)
    rim = np.clip((soft - np.float32(0.45)) * 3, np.float32(0.62), np.float32(1))
    shade = (1 + dome + bevel) * rim
    x, y = columns - np.float32(0.22 * light[0]), rows - np.float32(0.22 * light[1])
    gloss = np.float32(70) / (1 + (x * x + y * y) * 90)
    painted = surface * shade[:, :, None] + gloss[:, :, None]
    window = canvas[thing.top : thing.top + height, thing.left : thing.left + width]
    window[thing.inside] = painted[thing.inside]


def _cast_shadow(canvas: Array, thing: _Thing, light: tuple[float, float], strength: float) -> None:
    reach = 8
    shadow = _blurred(np.pad(thing.inside, reach), 5)
    top = thing.top - reach - int(light[1] * 6)
    left = thing.left - reach - int(light[0] * 6)
    bottom, right = top + shadow.shape[0], left + shadow.shape[1]
    cut = shadow[
        max(0, -top) : shadow.shape[0] - max(0, bottom - CANVAS),
        max(0, -left) : shadow.shape[1] - max(0, right - CANVAS),
    ]
    window = canvas[max(0, top) : min(CANVAS, bottom), max(0, left) : min(CANVAS, right)]
    window *= (1 - np.float32(strength) * cut)[:, :, None]


def _camera(canvas: Array, dice: Dice) -> NDArray[np.uint8]:
    """[128,128,3] uint8: averages the canvas down, then lighting, sometimes blur, and noise."""
    image = (canvas[0::2, 0::2] + canvas[1::2, 0::2] + canvas[0::2, 1::2] + canvas[1::2, 1::2]) * np.float32(0.25)
    axis = np.arange(SCENE_SIZE, dtype=np.float32) / np.float32(SCENE_SIZE) - np.float32(0.5)
    across, down = dice.between(-0.3, 0.3), dice.between(-0.3, 0.3)
    lamp = np.float32(dice.between(0.82, 1.08)) + axis[None, :] * np.float32(across) + axis[:, None] * np.float32(down)
    image = image * lamp[:, :, None]
    if dice.unit() < 0.35:
        padded = np.pad(image, ((1, 1), (0, 0), (0, 0)), mode="edge")
        image = (padded[:-2] + padded[2:]) * np.float32(0.25) + padded[1:-1] * np.float32(0.5)
        padded = np.pad(image, ((0, 0), (1, 1), (0, 0)), mode="edge")
        image = (padded[:, :-2] + padded[:, 2:]) * np.float32(0.25) + padded[:, 1:-1] * np.float32(0.5)
    bytes_ = dice.small(4, SCENE_SIZE, SCENE_SIZE, 3).astype(np.int32)
    # The sum of four uniform bytes is nearly normal, with deviation 147.8.
    noise = (bytes_[0] + bytes_[1] + bytes_[2] + bytes_[3] - 510).astype(np.float32)
    image = image + noise * np.float32(dice.between(1.5, 7.0) / 147.8)
    return np.rint(np.clip(image, np.float32(0), np.float32(255))).astype(np.uint8)  # type: ignore[no-any-return]


def _truth(
    regions: list[tuple[str, Mask]], layout: str, things: list[_Thing]
) -> tuple[NDArray[np.int32], tuple[SceneSegment, ...]]:
    segment_ids = np.zeros((SCENE_SIZE, SCENE_SIZE), dtype=np.int32)
    for number, (_, mask) in enumerate(regions, start=1):
        segment_ids[_quarter_sums(mask.astype(np.uint8)) >= 2] = number
    for number, thing in enumerate(things, start=len(regions) + 1):
        segment_ids[_scene_mask(thing)] = number
    described = [(name, layout, False) for name, _ in regions] + [(t.name, t.outline, True) for t in things]
    areas = np.bincount(segment_ids.ravel(), minlength=len(described) + 1)
    segments = []
    for number, (name, outline, is_thing) in enumerate(described, start=1):
        area = int(areas[number])
        if area < MIN_AREA:
            segment_ids[segment_ids == number] = 0
            continue
        segments.append(
            SceneSegment(id=number, category_id=_NAMES.index(name), is_thing=is_thing, outline=outline, area=area)
        )
    return segment_ids, tuple(segments)

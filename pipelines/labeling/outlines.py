"""Masks as polygons: exact outlines along the edges of pixels, thinned, with holes cut open.

Coordinates are x right and y down, in pixels, with (0, 0) the outer corner of the first pixel: pixel (x, y) covers
[x, x+1] x [y, y+1].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from pipelines.labeling.labelled import Mask

Point = tuple[int, int]
Ring = npt.NDArray[np.float64]
"""[n,2] corners (x, y), not repeated at the end."""

_RIGHT_TURN = {(1, 0): (0, 1), (0, 1): (-1, 0), (-1, 0): (0, -1), (0, -1): (1, 0)}


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """One connected part of a mask: its outer ring and the rings of its holes."""

    outer: Ring
    holes: tuple[Ring, ...]


def outlines(mask: Mask, tolerance: float = 0.0) -> list[Outline]:
    """The parts of a mask, pixels that share an edge being connected, the largest first.

    Args:
        mask: [h,w] bool.
        tolerance: in pixels; a ring's corners are left out as long as it moves no further than this. 0 is exact. A
            ring that would shrink to nothing stays exact.
    """
    rings = _rings(mask)
    # Traced with the mask on the right-hand side, outer rings have positive area (y points down), holes negative.
    outer = sorted((r for r in rings if _area(r) > 0), key=_area, reverse=True)
    holes: list[list[Ring]] = [[] for _ in outer]
    for hole in (r for r in rings if _area(r) < 0):
        # Of the rings around it, which lie within each other, the smallest.
        around = max(i for i, ring in enumerate(outer) if _holds(ring, hole))
        holes[around].append(_thinned(hole, tolerance))
    return [Outline(_thinned(ring, tolerance), tuple(inner)) for ring, inner in zip(outer, holes, strict=True)]


def cut_open(outline: Outline) -> Ring:
    """One ring for tools that know no holes: from the outer ring to each hole, around it, and back on the same line."""
    ring = outline.outer
    for hole in outline.holes:
        ring = _bridged(ring, hole)
    return ring


def joined(parts: list[Outline]) -> Ring:
    """One ring for tools with one polygon per object: parts are joined by a line there and back, as
    Ultralytics' own converter does."""
    rings = [cut_open(part) for part in parts]
    ring = rings[0]
    for other in rings[1:]:
        ring = _bridged(ring, other)
    return ring


def _bridged(ring: Ring, other: Ring) -> Ring:
    """`other`, entered and left at the corners of the two that lie nearest. The line is walked in both directions, so
    that it encloses nothing, whatever it crosses."""
    distances, nearest = cKDTree(ring).query(other)
    j = int(np.argmin(distances))
    i = int(np.atleast_1d(nearest)[j])
    around = np.concatenate([other[j:], other[: j + 1]])
    return np.concatenate([ring[: i + 1], around, ring[i:]])


def _rings(mask: Mask) -> list[Ring]:
    """Closed rings along the edges between mask and background, corners only, the mask on the right-hand side."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return []
    top, left = int(rows[0]), int(columns[0])
    steps = _edges(mask[top : rows[-1] + 1, left : columns[-1] + 1])
    rings = []
    while steps:
        start = next(iter(steps))
        corners = _follow(steps, start)
        rings.append(np.array(corners, dtype=np.float64) + np.array([left, top]))
    return rings


def _edges(mask: Mask) -> dict[Point, list[Point]]:
    """From each corner of a pixel the steps along its edges, clockwise around the mask; two where pixels touch by a
    corner only."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    # Step, the neighbour that must be background, and where the edge starts, from the pixel's first corner.
    sides = (
        ((1, 0), padded[:-2, 1:-1], (0, 0)),
        ((0, 1), padded[1:-1, 2:], (1, 0)),
        ((-1, 0), padded[2:, 1:-1], (1, 1)),
        ((0, -1), padded[1:-1, :-2], (0, 1)),
    )
    steps: dict[Point, list[Point]] = {}
    for step, neighbour, (dx, dy) in sides:
        for y, x in np.argwhere(inside & ~neighbour).tolist():
            steps.setdefault((x + dx, y + dy), []).append(step)
    return steps


def _follow(steps: dict[Point, list[Point]], start: Point) -> list[Point]:
    """The corners of the ring through `start`, whose steps are taken out."""
    position = start
    first = step = steps[start][0]
    corners: list[Point] = []
    while True:
        steps[position].remove(step)
        if not steps[position]:
            del steps[position]
        position = (position[0] + step[0], position[1] + step[1])
        ahead = steps.get(position, [])
        right = _RIGHT_TURN[step]
        if not ahead or (position == start and right == first):
            break
        # Where two pixels touch by a corner only, the turn to the right stays at this pixel: they are two parts.
        following = right if right in ahead else ahead[0]
        if following != step:
            corners.append(position)
        step = following
    return [*corners, start] if step != first else corners


def _thinned(ring: Ring, tolerance: float) -> Ring:
    """Douglas and Peucker's thinning of a closed ring, from its two corners furthest apart along one axis."""
    if tolerance <= 0.0 or len(ring) <= 4:
        return ring
    left, right = int(ring[:, 0].argmin()), int(ring[:, 0].argmax())
    ring = np.roll(ring, -left, axis=0)
    far = (right - left) % len(ring)
    closed = np.concatenate([ring, ring[:1]])
    kept = np.zeros(len(closed), dtype=bool)
    kept[[0, far, len(ring)]] = True
    waiting = [(0, far), (far, len(ring))]
    while waiting:
        start, stop = waiting.pop()
        if stop - start < 2:
            continue
        distances = _distance_to_line(closed[start + 1 : stop], closed[start], closed[stop])
        worst = int(distances.argmax())
        if distances[worst] > tolerance:
            middle = start + 1 + worst
            kept[middle] = True
            waiting += [(start, middle), (middle, stop)]
    thin = closed[:-1][kept[:-1]]
    return thin if len(thin) >= 3 and _area(thin) * _area(ring) > 0 else ring


def _distance_to_line(points: Ring, start: npt.NDArray[np.float64], stop: npt.NDArray[np.float64]) -> Ring:
    along = stop - start
    length = float(np.hypot(*along))
    offset = points - start
    if length == 0.0:
        from_start: Ring = np.hypot(offset[:, 0], offset[:, 1])
        return from_start
    across: Ring = np.abs(along[0] * offset[:, 1] - along[1] * offset[:, 0]) / length
    return across


def _area(ring: Ring) -> float:
    """Twice the signed area."""
    x, y = ring[:, 0], ring[:, 1]
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())


def _holds(ring: Ring, hole: Ring) -> bool:
    """Whether the first pixel inside the hole's corner lies within the ring (even-odd rule)."""
    # A point just inside the hole: right below the middle of its topmost edge.
    top = int(hole[:, 1].argmin())
    before, after = hole[top - 1], hole[(top + 1) % len(hole)]
    beside = before if abs(before[1] - hole[top, 1]) < abs(after[1] - hole[top, 1]) else after
    x, y = (hole[top, 0] + beside[0]) / 2, hole[top, 1] + 1e-3
    x1, y1 = ring[:, 0], ring[:, 1]
    x2, y2 = np.roll(x1, -1), np.roll(y1, -1)
    crosses = (y1 > y) != (y2 > y)
    with np.errstate(divide="ignore", invalid="ignore"):
        at = x1 + (y - y1) * (x2 - x1) / (y2 - y1)
    return bool((crosses & (x < at)).sum() % 2)

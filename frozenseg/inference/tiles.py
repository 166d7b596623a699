"""Large images in overlapping tiles, and their results merged so that no tile border shows.

A segment is one segment even where a tile border cuts it: in the strip that two tiles share, segments of the same
category are the same when they cover each other there. Each pixel takes the answer of the tile in which it lies
farthest from a cut edge, so that the doubtful pixels at a tile's own edge are never used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frozenseg.types import Segment, SegmentationOutput, Size

Pixels = TypeVar("Pixels", Tensor, NDArray[np.bool_], NDArray[np.int32])
SAME_SHARE = 0.5
"""Two things of one category are one when their common part of the shared strip covers this much of the smaller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """Pixels top <= y < bottom, left <= x < right of the image."""

    top: int
    bottom: int
    left: int
    right: int

    def crop(self, image: Pixels) -> Pixels:
        """A view of the tile of a [...,H,W] tensor or array."""
        return image[..., self.top : self.bottom, self.left : self.right]


def plan_tiles(size: Size, tile: int, overlap: int) -> list[Tile]:
    """Tiles of at most `tile` pixels a side that cover `size`, evenly spread, neighbours sharing at least `overlap`."""
    rows, columns = (list(_spans(side, tile, overlap)) for side in size)
    return [Tile(top=t, bottom=b, left=left, right=right) for t, b in rows for left, right in columns]


def _spans(length: int, tile: int, overlap: int) -> Iterator[tuple[int, int]]:
    if length <= tile:
        yield 0, length
        return
    count = -(-(length - overlap) // (tile - overlap))
    for index in range(count):
        start = round(index * (length - tile) / (count - 1))
        yield start, start + tile


def owner_map(size: Size, tiles: Sequence[Tile]) -> NDArray[np.int32]:
    """[H,W] int32: the tile whose answer counts at each pixel."""
    owner = np.zeros(size, dtype=np.int32)
    best = np.full(size, -1.0, dtype=np.float32)
    for index, tile in enumerate(tiles):
        rows = _distance_to_cut(tile.top, tile.bottom, size[0])
        columns = _distance_to_cut(tile.left, tile.right, size[1])
        distance = np.minimum(rows[:, None], columns[None, :])
        window = (slice(tile.top, tile.bottom), slice(tile.left, tile.right))
        better = distance > best[window]
        owner[window][better] = index
        best[window][better] = distance[better]
    return owner


def _distance_to_cut(start: int, stop: int, length: int) -> NDArray[np.float32]:
    """Pixels to the nearer end of the span, where an end at the image's own edge is no cut."""
    position = np.arange(start, stop, dtype=np.float32)
    before = position - start if start > 0 else np.full_like(position, np.inf)
    after = stop - 1 - position if stop < length else np.full_like(position, np.inf)
    return np.minimum(before, after)


def merge_semantic(size: Size, tiles: Sequence[Tile], labels: Sequence[Tensor]) -> Tensor:
    """[H,W] int64 from one label map per tile."""
    owner = owner_map(size, tiles)
    result = np.zeros(size, dtype=np.int64)
    for index, (tile, label) in enumerate(zip(tiles, labels, strict=True)):
        window = (slice(tile.top, tile.bottom), slice(tile.left, tile.right))
        mine = owner[window] == index
        result[window][mine] = label.cpu().numpy()[mine]
    return torch.from_numpy(result)


def merge_panoptic(size: Size, tiles: Sequence[Tile], results: Sequence[SegmentationOutput]) -> SegmentationOutput:
    """One panoptic result from one per tile. A merged segment's score is its parts' mean, weighted by area."""
    owner = owner_map(size, tiles)
    maps = [result.segment_ids.cpu().numpy() for result in results]
    parts = [(index, segment) for index, result in enumerate(results) for segment in result.segments]
    number = {(index, segment.id): position for position, (index, segment) in enumerate(parts)}
    group = Groups(len(parts))
    first_of_stuff: dict[int, int] = {}
    for position, (_, segment) in enumerate(parts):
        if not segment.is_thing:
            group.join(position, first_of_stuff.setdefault(segment.category_id, position))
    for one in range(len(tiles)):
        for other in range(one + 1, len(tiles)):
            for a, b in _same_things(tiles[one], tiles[other], results[one], results[other], maps[one], maps[other]):
                group.join(number[one, a], number[other, b])
    canvas = np.full(size, -1, dtype=np.int64)
    for index, tile in enumerate(tiles):
        window = (slice(tile.top, tile.bottom), slice(tile.left, tile.right))
        lookup = np.full(max((s.id for s in results[index].segments), default=0) + 1, -1, dtype=np.int64)
        for segment in results[index].segments:
            lookup[segment.id] = group.root(number[index, segment.id])
        mine = owner[window] == index
        canvas[window][mine] = lookup[maps[index]][mine]
    return _renumber(canvas, parts, group)


def _same_things(
    one: Tile,
    other: Tile,
    first: SegmentationOutput,
    second: SegmentationOutput,
    first_ids: NDArray[np.int32],
    second_ids: NDArray[np.int32],
) -> list[tuple[int, int]]:
    """Pairs of segment ids that are one thing, judged in the strip that both tiles see."""
    top, bottom = max(one.top, other.top), min(one.bottom, other.bottom)
    left, right = max(one.left, other.left), min(one.right, other.right)
    if top >= bottom or left >= right:
        return []
    a = first_ids[top - one.top : bottom - one.top, left - one.left : right - one.left]
    b = second_ids[top - other.top : bottom - other.top, left - other.left : right - other.left]
    area_a, area_b = (dict(zip(*np.unique(ids, return_counts=True), strict=True)) for ids in (a, b))
    pairs, counts = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1, return_counts=True)
    things_a = {s.id: s.category_id for s in first.segments if s.is_thing}
    things_b = {s.id: s.category_id for s in second.segments if s.is_thing}
    return [
        (int(i), int(j))
        for i, j, count in zip(*pairs, counts, strict=True)
        if i in things_a and things_a[i] == things_b.get(j, -1) and count >= SAME_SHARE * min(area_a[i], area_b[j])
    ]


class Groups:
    """Union-find over numbered parts."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def root(self, item: int) -> int:
        while self._parent[item] != item:
            self._parent[item] = self._parent[self._parent[item]]
            item = self._parent[item]
        return item

    def join(self, one: int, other: int) -> None:
        self._parent[self.root(one)] = self.root(other)


def _renumber(canvas: NDArray[np.int64], parts: Sequence[tuple[int, Segment]], group: Groups) -> SegmentationOutput:
    """[H,W] of roots, -1 for void -> ids from 1 in order of appearance in `parts`."""
    roots, areas = np.unique(canvas[canvas >= 0], return_counts=True)
    lookup = np.zeros(len(parts) + 1, dtype=np.int32)  # the last entry serves void's -1
    segments = []
    for new_id, (root, area) in enumerate(zip(roots.tolist(), areas.tolist(), strict=True), start=1):
        members = [segment for position, (_, segment) in enumerate(parts) if group.root(position) == root]
        weight = sum(segment.area for segment in members)
        score = sum(segment.score * segment.area for segment in members) / weight
        lookup[root] = new_id
        kind = members[0]
        segments.append(
            Segment(id=new_id, category_id=kind.category_id, is_thing=kind.is_thing, score=score, area=area)
        )
    return SegmentationOutput(segment_ids=torch.from_numpy(lookup[canvas]), segments=tuple(segments))

"""Instances of a large image from those of its overlapping tiles.

In the strip that two tiles share, an instance of one is that of the other when they have the same category and cover
each other there, each with its best partner only: instances overlap, and one object may have been found twice in a
tile. Each pixel of a merged mask comes from the tile in which it lies farthest from a cut edge, as in `tiles`.

Masks are kept as their boxes' contents: nine tiles of 2048 pixels with 100 instances each would else be 3.8 GB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from frozenseg.inference.tiles import SAME_SHARE, Groups, Tile, owner_map
from frozenseg.types import Instances, Size

Bool = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Part:
    """What one tile saw of an instance: box in pixels of the image, and the mask inside it."""

    tile: int
    category_id: int
    score: float
    box: Tile
    mask: Bool
    area: int


def merge_instances(size: Size, tiles: Sequence[Tile], results: Sequence[Instances], top_k: int) -> Instances:
    """One result from one per tile, the best `top_k`. A merged instance's score is its parts' mean, weighted by area;
    what a tile saw only where another tile's answer counts is left out."""
    parts = [part for index, result in enumerate(results) for part in _parts(index, tiles[index], result)]
    group = Groups(len(parts))
    of_tile: list[list[int]] = [[] for _ in tiles]
    for position, part in enumerate(parts):
        of_tile[part.tile].append(position)
    for one in range(len(tiles)):
        for other in range(one + 1, len(tiles)):
            strip = _common(tiles[one], tiles[other])
            if strip is not None:
                for a, b in _same(parts, of_tile[one], of_tile[other], strip):
                    group.join(a, b)
    members: dict[int, list[_Part]] = {}
    for position, part in enumerate(parts):
        members.setdefault(group.root(position), []).append(part)
    owner = owner_map(size, tiles)
    owned = ([(part, _owned(part, owner)) for part in of_group] for of_group in members.values())
    found = [pairs for pairs in owned if any(mask.any() for _, mask in pairs)]
    scores = np.array([np.average([p.score for p, _ in pairs], weights=[p.area for p, _ in pairs]) for pairs in found])
    best = np.argsort(-scores, kind="stable")[:top_k]
    masks = np.zeros((len(best), *size), dtype=bool)
    for row, index in enumerate(best):
        for part, mask in found[index]:
            part.box.crop(masks[row])[mask] = True
    return Instances(
        masks=torch.from_numpy(masks),
        category_ids=torch.tensor([found[index][0][0].category_id for index in best], dtype=torch.int64),
        scores=torch.tensor(scores[best], dtype=torch.float32),
    )


def _parts(index: int, tile: Tile, result: Instances) -> list[_Part]:
    """The instances of a tile that have pixels."""
    parts = []
    for row in range(len(result.scores)):
        mask = result.masks[row].cpu().numpy()
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            continue
        top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        inside = mask[top:bottom, left:right].copy()
        parts.append(
            _Part(
                tile=index,
                category_id=int(result.category_ids[row]),
                score=float(result.scores[row]),
                box=Tile(top=tile.top + top, bottom=tile.top + bottom, left=tile.left + left, right=tile.left + right),
                mask=inside,
                area=int(inside.sum()),
            )
        )
    return parts


def _same(parts: Sequence[_Part], ones: Sequence[int], others: Sequence[int], strip: Tile) -> list[tuple[int, int]]:
    """Pairs of positions, each position once, the pairs that cover each other best in the strip first."""
    inside = {position: _window(parts[position], strip) for position in (*ones, *others)}
    candidates = []
    for a in ones:
        for b in others:
            if parts[a].category_id != parts[b].category_id or _common(parts[a].box, parts[b].box) is None:
                continue
            both = int(np.count_nonzero(inside[a] & inside[b]))
            areas = int(np.count_nonzero(inside[a])), int(np.count_nonzero(inside[b]))
            if both and both >= SAME_SHARE * min(areas):
                candidates.append((both / (sum(areas) - both), a, b))
    taken: set[int] = set()
    pairs = []
    for _, a, b in sorted(candidates, key=lambda candidate: -candidate[0]):
        if a not in taken and b not in taken:
            taken |= {a, b}
            pairs.append((a, b))
    return pairs


def _window(part: _Part, window: Tile) -> Bool:
    """The part's mask in a window of the image."""
    mask = np.zeros((window.bottom - window.top, window.right - window.left), dtype=bool)
    common = _common(part.box, window)
    if common is not None:
        _within(common, window).crop(mask)[:] = _within(common, part.box).crop(part.mask)
    return mask


def _owned(part: _Part, owner: NDArray[np.int32]) -> Bool:
    """The part's mask where its tile's answer counts."""
    owned: Bool = part.mask & (part.box.crop(owner) == part.tile)
    return owned


def _common(one: Tile, other: Tile) -> Tile | None:
    """The pixels of both, None when there are none."""
    top, bottom = max(one.top, other.top), min(one.bottom, other.bottom)
    left, right = max(one.left, other.left), min(one.right, other.right)
    return Tile(top=top, bottom=bottom, left=left, right=right) if top < bottom and left < right else None


def _within(tile: Tile, outer: Tile) -> Tile:
    """The same pixels, counted from the corner of `outer`."""
    return Tile(
        top=tile.top - outer.top,
        bottom=tile.bottom - outer.top,
        left=tile.left - outer.left,
        right=tile.right - outer.left,
    )

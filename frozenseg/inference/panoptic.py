"""Panoptic result of one image from its queries, tile by tile and without ever holding queries x pixels.

The published rule, per pixel: the query with the largest score * sigmoid(mask logit) wins. A query's segment is what it
won where its sigmoid is at least 0.5; it is dropped when (pixels won) / (pixels with sigmoid >= 0.5) is below the
overlap threshold. Segments of one stuff category merge. Ids count from 1 in query order. Source: MODEL.md, Inference.

How it is fast and still the same: a bilinear resize never leaves the range of the logits it reads, so the smallest and
the largest low-resolution logit under a tile bound every query there. Queries that cannot win a pixel of the tile and
do not cross 0.5 in it are settled by the bounds; only the others are resized, and all of them with the kernel's own
rounding (see geometry.py). Cost does not depend on the number of categories.

Shape legend: Q queries, N the kept ones, K categories, h w low-resolution logits, H W output pixels, P a tile's pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from frozenseg.inference.geometry import ImageGeometry, MaskResizer, Window, tile_windows
from frozenseg.types import Segment, SegmentationOutput, Size

TILE_SIZE: Size = (64, 64)
"""Output pixels of one tile: small enough that most queries are settled by their bounds, large enough that the calls'
own cost stays below the arithmetic."""

_BAND_ELEMENTS = 1 << 19

_LOGIT_SLACK = 1e-3
"""Bounds are widened by this much (absolute, and relative to the logit): far above float32 rounding of a resize."""


@dataclass(frozen=True, slots=True, eq=False)
class _Contest:
    """Outcome of the contest for pixels. winner [H,W] int64, index of a kept query; inside [H,W] bool, the winner's
    sigmoid is at least 0.5; mask_area [N] int64, pixels where a query's own sigmoid is at least 0.5."""

    winner: Tensor
    inside: Tensor
    mask_area: Tensor


def panoptic(
    class_scores: Tensor,
    mask_logits: Tensor,
    geometry: ImageGeometry,
    is_thing: Tensor,
    object_threshold: float = 0.0,
    overlap_threshold: float = 0.8,
) -> SegmentationOutput:
    """Segments of one image.

    Args:
        class_scores: [Q,K+1] class log-probabilities (or logits), void last.
        mask_logits: [Q,h,w], covering `geometry.padded_size`.
        is_thing: [K] bool.
        object_threshold: a query is kept when its best class is not void and that class's probability is greater.
        overlap_threshold: see the module's text.

    Returns:
        segment_ids at `geometry.output_size`; each segment's score is the best class probability among its queries.
    """
    scores, categories = class_scores.float().softmax(dim=-1).max(dim=-1)
    kept = ((categories != class_scores.shape[-1] - 1) & (scores > object_threshold)).nonzero().flatten()
    if kept.numel() == 0:
        empty = torch.zeros(geometry.output_size, dtype=torch.int32, device=mask_logits.device)
        return SegmentationOutput(segment_ids=empty, segments=())
    scores, categories = scores[kept], categories[kept]
    contest = _contest(mask_logits[kept].float(), scores, geometry)
    return _segments(contest, scores, categories, is_thing, overlap_threshold)


def _contest(mask_logits: Tensor, scores: Tensor, geometry: ImageGeometry) -> _Contest:
    """mask_logits [N,h,w], scores [N] in (0,1], N >= 1."""
    low_size = (int(mask_logits.shape[-2]), int(mask_logits.shape[-1]))
    resizer = MaskResizer(low_size, geometry, mask_logits.device)
    winner = torch.empty(geometry.output_size, dtype=torch.int64, device=mask_logits.device)
    inside = torch.empty(geometry.output_size, dtype=torch.bool, device=mask_logits.device)
    mask_area = torch.zeros(len(scores), dtype=torch.int64, device=mask_logits.device)
    for strip in tile_windows(geometry.output_size, (TILE_SIZE[0], geometry.output_size[1])):
        low = resizer.low_window(strip)
        low_rows = mask_logits[:, low.top : low.bottom]
        lowest, highest = low_rows.amin(dim=1), low_rows.amax(dim=1)
        for left in range(0, strip.right, TILE_SIZE[1]):
            tile = Window(strip.top, strip.bottom, left, min(left + TILE_SIZE[1], strip.right))
            low = resizer.low_window(tile)
            columns = slice(low.left, low.right)
            bounds = lowest[:, columns].amin(dim=1), highest[:, columns].amax(dim=1)
            candidates = _candidates(*bounds, scores, tile.num_pixels, mask_area)
            for window in _bands(tile, len(candidates)):
                probabilities = resizer.window(mask_logits, window, candidates).sigmoid_()
                is_inside = torch.ge(probabilities, 0.5, out=torch.empty_like(probabilities))
                mask_area.index_add_(0, candidates, is_inside.sum(dim=1).sum(dim=1).long())
                first = _first_maximum(probabilities.mul_(scores[candidates, None, None]))
                pixels = (slice(window.top, window.bottom), slice(window.left, window.right))
                winner[pixels] = candidates[first]
                inside[pixels] = is_inside.gather(0, first[None])[0] > 0.0
    return _Contest(winner, inside, mask_area)


def _bands(tile: Window, num_queries: int) -> Iterator[Window]:
    """Splits a tile in rows so that queries x pixels stays within the processor's cache."""
    step = max(_BAND_ELEMENTS // (num_queries * (tile.right - tile.left)), 1)
    for top in range(tile.top, tile.bottom, step):
        yield Window(top, min(top + step, tile.bottom), tile.left, tile.right)


def _candidates(lowest: Tensor, highest: Tensor, scores: Tensor, num_pixels: int, mask_area: Tensor) -> Tensor:
    """Indices of the queries that a tile has to look at, ascending, at least one, from the bounds [N] of its logits.

    A query left out wins no pixel of the tile; where it covers the tile wholly its pixels are added to `mask_area`.
    """
    lowest = lowest - _LOGIT_SLACK * (1.0 + lowest.abs())
    highest = highest + _LOGIT_SLACK * (1.0 + highest.abs())
    can_win = scores * highest.sigmoid() >= (scores * lowest.sigmoid()).max() * (1.0 - _LOGIT_SLACK)
    crosses = (lowest <= 0.0) & (highest >= 0.0)
    mask_area += ((lowest > 0.0) & ~can_win).long() * num_pixels
    return (can_win | crosses).nonzero().flatten()


def _first_maximum(values: Tensor) -> Tensor:
    """[N,H,W] -> [H,W] int64: the first map that holds the pixel's maximum. Overwrites `values`.

    Vectorised passes over floats; torch's argmax over the outer dimension is several times slower on a CPU.
    """
    num_maps = values.shape[0]
    rank = torch.arange(num_maps, 0, -1, dtype=values.dtype, device=values.device)[:, None, None]
    best_rank = values.eq_(values.amax(dim=0)).mul_(rank).amax(dim=0)
    return num_maps - best_rank.long()


def _segments(
    contest: _Contest, scores: Tensor, categories: Tensor, is_thing: Tensor, overlap_threshold: float
) -> SegmentationOutput:
    """Numbers the segments in query order, merging stuff, and paints them."""
    num_kept = len(scores)
    pixels_won = torch.bincount(contest.winner.flatten(), minlength=num_kept).tolist()
    areas = torch.bincount(contest.winner[contest.inside], minlength=num_kept).tolist()
    mask_areas, category_list, score_list = contest.mask_area.tolist(), categories.tolist(), scores.tolist()
    things = is_thing.tolist()
    segment_of_query = [0] * num_kept
    segments: list[Segment] = []
    stuff_ids: dict[int, int] = {}
    for query, category in enumerate(category_list):
        if areas[query] == 0 or pixels_won[query] / mask_areas[query] < overlap_threshold:
            continue
        if not things[category] and category in stuff_ids:
            earlier = segments[stuff_ids[category] - 1]
            segment = Segment(
                id=earlier.id,
                category_id=category,
                is_thing=False,
                score=max(earlier.score, score_list[query]),
                area=earlier.area + areas[query],
            )
            segments[earlier.id - 1] = segment
        else:
            segment = Segment(
                id=len(segments) + 1,
                category_id=category,
                is_thing=things[category],
                score=score_list[query],
                area=areas[query],
            )
            segments.append(segment)
            if not segment.is_thing:
                stuff_ids[category] = segment.id
        segment_of_query[query] = segment.id
    ids = torch.tensor(segment_of_query, dtype=torch.int32, device=contest.winner.device)
    return SegmentationOutput(segment_ids=ids[contest.winner] * contest.inside, segments=tuple(segments))

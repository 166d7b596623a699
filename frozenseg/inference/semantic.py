"""Semantic result of one image: every pixel's category scores are a weighted sum of sigmoid masks.

scores[k, pixel] = sum over masks of weight[mask, k] * sigmoid(mask logit at the pixel). The decoder's queries are one
set of masks with their class probabilities as weights; OpenSeg (openseg.py) adds SAM's masks as a second set. Labels
are taken tile by tile in rows, so categories x pixels never exists at once. Source: MODEL.md, Inference.

Shape legend: N masks of a set, K categories, h w low-resolution logits, H W output pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from frozenseg.inference.geometry import ImageGeometry, MaskResizer
from frozenseg.types import Size

_TILE_BYTES = 64 * 2**20
"""Upper bound of a tile's category scores and of its masks; a tile is at least one output row."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MaskVotes:
    """Masks that vote for categories. mask_logits [N,h,w] covering `geometry.padded_size`; weights [N,K] >= 0."""

    mask_logits: Tensor
    weights: Tensor
    geometry: ImageGeometry


def query_votes(class_scores: Tensor, mask_logits: Tensor, geometry: ImageGeometry) -> MaskVotes:
    """The decoder's queries as voters: class_scores [Q,K+1] log-probabilities, void last; mask_logits [Q,h,w]."""
    weights = class_scores.float().softmax(dim=-1)[:, :-1]
    return MaskVotes(mask_logits=mask_logits.float(), weights=weights, geometry=geometry)


def semantic(votes: Sequence[MaskVotes]) -> Tensor:
    """[H,W] int64: the category with the highest score at each pixel (the first of equals). Needs at least one set."""
    first = votes[0]
    # Allocated once: small results kept from every band would pin the bands' own memory in the allocator's heap.
    labels = torch.empty(first.geometry.output_size, dtype=torch.int64, device=first.mask_logits.device)
    for top, bottom, scores in _score_bands(votes):
        labels[top:bottom] = scores.argmax(dim=0)
    return labels


def semantic_with_scores(votes: Sequence[MaskVotes]) -> tuple[Tensor, Tensor]:
    """[H,W] int64 as `semantic`, and [H,W] float32: the winning category's score at each pixel."""
    first = votes[0]
    labels = torch.empty(first.geometry.output_size, dtype=torch.int64, device=first.mask_logits.device)
    best = first.mask_logits.new_empty(first.geometry.output_size)
    for top, bottom, scores in _score_bands(votes):
        best[top:bottom], labels[top:bottom] = scores.max(dim=0)
    return labels, best


def semantic_scores(votes: Sequence[MaskVotes]) -> Tensor:
    """[K,H,W] float32, dense. For labels alone use `semantic`, whose memory does not grow with K x H x W."""
    size = votes[0].geometry.output_size
    scores = votes[0].mask_logits.new_empty((votes[0].weights.shape[1], *size))
    for top, bottom, band in _score_bands(votes):
        scores[:, top:bottom] = band
    return scores


def _score_bands(votes: Sequence[MaskVotes]) -> Iterator[tuple[int, int, Tensor]]:
    """(top, bottom, scores [K, bottom - top, W]) over all output rows."""
    size = votes[0].geometry.output_size
    first = votes[0]
    votes = [v for v in votes if len(v.weights)]
    resizers = [MaskResizer(_low_size(v.mask_logits), v.geometry, v.mask_logits.device) for v in votes]
    transposed = [v.weights.t().contiguous() for v in votes]
    step = _band_rows([first, *votes], size)
    for top in range(0, size[0], step):
        bottom = min(top + step, size[0])
        scores = first.mask_logits.new_zeros((first.weights.shape[1], (bottom - top) * size[1]))
        for vote, resizer, weights in zip(votes, resizers, transposed, strict=True):
            masks = resizer.rows(vote.mask_logits, top, bottom).sigmoid().flatten(1)
            scores.addmm_(weights, masks)
        yield top, bottom, scores.view(-1, bottom - top, size[1])


def _low_size(mask_logits: Tensor) -> Size:
    return int(mask_logits.shape[-2]), int(mask_logits.shape[-1])


def _band_rows(votes: Sequence[MaskVotes], size: Size) -> int:
    widest = max(max(v.weights.shape) for v in votes)
    return max(_TILE_BYTES // (4 * widest * size[1]), 1)

"""The OpenSeg ensemble: SAM's masks, classified by CLIP, vote for the categories that training has not seen.

Source: paper Eq. 4; MODEL.md, Inference. What the released code gets wrong here, and what we do, is in
docs/decisions/0002-openseg-online.md.

Shape legend: Q queries, M SAM masks, K categories.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from frozenseg.inference.geometry import ImageGeometry
from frozenseg.inference.semantic import MaskVotes
from frozenseg.types import Size

_EMPTY_PROBABILITY = 1e-8


def openseg_votes(
    queries: MaskVotes,
    sam_clip_logits: Tensor,
    sam_mask_logits: Tensor,
    sam_geometry: ImageGeometry,
    seen: Tensor,
    epsilon: float = 0.2,
    min_probability: float = 0.5,
) -> tuple[MaskVotes, MaskVotes]:
    """Voters of the ensembled semantic result, for `semantic` and `semantic_scores`.

    Args:
        queries: the decoder's voters.
        sam_clip_logits: [M,K+1] CLIP class logits of the SAM masks, void last. M may be 0.
        sam_mask_logits: [M,h,w], covering `sam_geometry.padded_size`.
        seen: [K] bool; only the other categories are touched.
        epsilon: weight of SAM. The decoder's unseen votes are scaled by 1 - epsilon even when no SAM mask passes.
        min_probability: a mask votes when its highest unseen probability is greater.

    Returns:
        The scaled queries and the SAM masks that passed (perhaps none), with epsilon in their weights.
    """
    seen = seen.to(queries.weights.device)
    scale = torch.where(seen, 1.0, 1.0 - epsilon)
    probabilities = sam_unseen_probabilities(sam_clip_logits, seen)
    passed = _passing(probabilities, min_probability)
    sam = MaskVotes(
        mask_logits=sam_mask_logits[passed].float(), weights=epsilon * probabilities[passed], geometry=sam_geometry
    )
    return replace(queries, weights=queries.weights * scale), sam


def sam_unseen_probabilities(sam_clip_logits: Tensor, seen: Tensor) -> Tensor:
    """[M,K+1] CLIP logits -> [M,K]: softmax with void, its column then dropped, 0 for seen ones, not renormalised.

    (The released results have void in this softmax, other than in the class ensemble's: the goldens tell them apart.)
    """
    return sam_clip_logits.float().softmax(dim=-1)[:, :-1] * (~seen)


def sam_class_scores(sam_clip_logits: Tensor) -> Tensor:
    """[M,K+1] CLIP logits -> [M,K+1] log-probabilities and (almost) no void, for SAM masks that act as queries.

    Used by the SAM-only mode: SAM's masks, classified by pooled CLIP features, with no decoder (paper Table 4, row 1).
    Void is the decoder's learned row, so it takes no part here. The result goes through `panoptic`, `query_votes` and
    `instances` as a decoder's would.
    """
    probabilities = sam_clip_logits.float()[:, :-1].softmax(dim=-1)
    return F.pad(probabilities, (0, 1)).add(_EMPTY_PROBABILITY).log()


def add_sam_queries(
    class_scores: Tensor,
    mask_logits: Tensor,
    sam_clip_logits: Tensor,
    sam_mask_logits: Tensor,
    seen: Tensor,
    weight: float,
    min_probability: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """Beyond the paper: SAM masks that pass OpenSeg's filter join the decoder's queries in the panoptic contest.

    Args:
        class_scores: [Q,K+1] log-probabilities, void last. mask_logits: [Q,h,w].
        sam_clip_logits: [M,K+1]; sam_mask_logits: [M,h',w'], covering the same padded image as `mask_logits`.
        seen: [K] bool. weight: >= 0, multiplies SAM's unseen probabilities; what is left of 1 goes to void.

    Returns:
        ([Q+m,K+1] log-probabilities, [Q+m,h,w] logits), SAM's m <= M masks last.
    """
    probabilities = sam_unseen_probabilities(sam_clip_logits, seen.to(sam_clip_logits.device))
    passed = _passing(probabilities, min_probability)
    if weight == 0.0 or passed.numel() == 0:
        return class_scores, mask_logits
    unseen = (weight * probabilities[passed]).clamp(max=1.0)
    void = (1.0 - unseen.sum(dim=-1, keepdim=True)).clamp(min=0.0)
    scores = torch.cat([unseen, void], dim=-1).add(_EMPTY_PROBABILITY).log()
    size: Size = (int(mask_logits.shape[-2]), int(mask_logits.shape[-1]))
    masks = F.interpolate(sam_mask_logits[passed][None].float(), size=size, mode="bilinear", align_corners=False)[0]
    return torch.cat([class_scores.float(), scores]), torch.cat([mask_logits.float(), masks])


def _passing(probabilities: Tensor, min_probability: float) -> Tensor:
    """[M,K] -> indices of the masks whose highest probability is greater than the threshold."""
    return (probabilities.amax(dim=-1) > min_probability).nonzero().flatten()

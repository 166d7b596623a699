"""The published form of panoptic post-processing: full-resolution sigmoid masks and a loop over queries."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from frozenseg.types import Segment, SegmentationOutput, Size


def full_size_masks(mask_logits: Tensor, padded_size: Size, valid_size: Size, output_size: Size) -> Tensor:
    """[Q,h,w] -> [Q,H,W] logits: resize to the padded size, crop, resize to the output size."""
    padded = F.interpolate(mask_logits[None], size=padded_size, mode="bilinear", align_corners=False)
    cropped = padded[:, :, : valid_size[0], : valid_size[1]]
    if tuple(cropped.shape[-2:]) == tuple(output_size):
        return cropped[0]
    return F.interpolate(cropped, size=output_size, mode="bilinear", align_corners=False)[0]


def panoptic_loop(
    class_scores: Tensor, masks: Tensor, is_thing: Tensor, object_threshold: float, overlap_threshold: float
) -> SegmentationOutput:
    """class_scores [Q,K+1] log-probabilities, void last; masks [Q,H,W] logits at the output size; is_thing [K] bool."""
    scores, labels = class_scores.softmax(-1).max(-1)
    probabilities = masks.sigmoid()
    keep = labels.ne(class_scores.shape[-1] - 1) & (scores > object_threshold)
    kept_scores, kept_labels, kept_masks = scores[keep], labels[keep], probabilities[keep]
    result = torch.zeros(masks.shape[-2:], dtype=torch.int32)
    segments: list[Segment] = []
    if kept_masks.shape[0] == 0:
        return SegmentationOutput(segment_ids=result, segments=())
    winner = (kept_scores.view(-1, 1, 1) * kept_masks).argmax(0)
    stuff: dict[int, int] = {}
    for query in range(kept_labels.shape[0]):
        category = int(kept_labels[query])
        won = winner == query
        inside = kept_masks[query] >= 0.5
        segment_mask = won & inside
        num_won, mask_area, area = int(won.sum()), int(inside.sum()), int(segment_mask.sum())
        if num_won == 0 or mask_area == 0 or area == 0 or num_won / mask_area < overlap_threshold:
            continue
        score, thing = float(kept_scores[query]), bool(is_thing[category])
        if not thing and category in stuff:
            old = segments[stuff[category] - 1]
            result[segment_mask] = old.id
            segments[old.id - 1] = Segment(
                id=old.id, category_id=category, is_thing=False, score=max(old.score, score), area=old.area + area
            )
            continue
        segment = Segment(id=len(segments) + 1, category_id=category, is_thing=thing, score=score, area=area)
        segments.append(segment)
        if not thing:
            stuff[category] = segment.id
        result[segment_mask] = segment.id
    return SegmentationOutput(segment_ids=result, segments=tuple(segments))

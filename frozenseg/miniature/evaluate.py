"""Scores of a miniature model on fixed views: seen and unseen, and the 2x2 of look and outline.

Shape legend: Q proposals, S = 128 scene side, N segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from frozenseg.evaluation import PanopticQuality, ProposalRecall, SemanticIoU, semantic_labels
from frozenseg.inference.geometry import ImageGeometry
from frozenseg.inference.options import InferenceOptions
from frozenseg.inference.prediction import Prediction
from frozenseg.inference.segmenter import Segmenter
from frozenseg.miniature.encoders import IMAGE_SIZE
from frozenseg.miniature.views import FixedViews
from frozenseg.miniature.world import SCENE_SIZE, SceneSegment
from frozenseg.types import PanopticAnnotation, SamMasks, SegmentationOutput

GEOMETRY = ImageGeometry(
    padded_size=(IMAGE_SIZE, IMAGE_SIZE), valid_size=(IMAGE_SIZE, IMAGE_SIZE), output_size=(SCENE_SIZE, SCENE_SIZE)
)
_SCENES_AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell of the 2x2, over true segments: how many; share found and rightly named in the panoptic result (IoU over
    0.5); mean IoU of the best proposal, whatever its name; share of best proposals above 0.75."""

    num_segments: int
    found: float
    best_iou: float
    above_75: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """All in [0,1]; pairs are (seen, unseen). `cells`, by (look seen, outline seen), are over things: stuff has no
    outline of its own."""

    miou_seen: float
    miou_unseen: float
    pq_seen: float
    pq_unseen: float
    recall_50: tuple[float, float]
    recall_75: tuple[float, float]
    cells: dict[tuple[bool, bool], Cell]
    best_iou_seen: float
    best_iou_unseen: float


def evaluate(
    segmenter: Segmenter,
    views: FixedViews,
    options: InferenceOptions | None = None,
    sam_masks: Sequence[SamMasks] = (),
) -> Scores:
    """Scores over all views.

    Args:
        segmenter: its encoders must be the ones that made the views.
        views: of test scenes, with the full vocabulary.
        options: the segmenter's own when None.
        sam_masks: one per view where the options need them.
    """
    seen = segmenter.model.seen(views.vocabulary)
    panoptic = PanopticQuality(views.vocabulary, seen)
    semantic = SemanticIoU(views.vocabulary, seen)
    recall = ProposalRecall(views.vocabulary, seen)
    rows: list[tuple[SceneSegment, bool, float]] = []
    for start in range(0, len(views), _SCENES_AT_ONCE):
        indices = range(start, min(start + _SCENES_AT_ONCE, len(views)))
        predictions = segmenter.predict_features(
            views.features(indices),
            [GEOMETRY] * len(indices),
            views.vocabulary,
            [sam_masks[i] for i in indices] if sam_masks else (),
            options,
            [str(i) for i in indices],
        )
        for index, prediction in zip(indices, predictions, strict=True):
            annotation = views.annotations[index]
            result, labels = prediction.panoptic(), semantic_labels(annotation)
            panoptic.update(result, annotation, str(index))
            semantic.update(prediction.semantic(), labels, str(index))
            recall.update(prediction.proposals(), labels, str(index))
            rows += _segment_rows(prediction, result, annotation, views.segments[index])
    pq, iou, found = panoptic.compute(), semantic.compute(), recall.compute()
    assert pq.seen is not None
    assert pq.unseen is not None
    assert found.seen is not None
    assert found.unseen is not None
    return Scores(
        miou_seen=iou.miou_seen or 0.0,
        miou_unseen=iou.miou_unseen or 0.0,
        pq_seen=pq.seen.pq,
        pq_unseen=pq.unseen.pq,
        recall_50=(found.seen.recall[0], found.unseen.recall[0]),
        recall_75=(found.seen.recall[1], found.unseen.recall[1]),
        cells={
            (look, outline): _cell(
                [r for r in rows if (r[0].look_seen, r[0].outline_seen, r[0].is_thing) == (look, outline, True)]
            )
            for look in (True, False)
            for outline in (True, False)
        },
        best_iou_seen=_mean([r[2] for r in rows if r[0].look_seen]),
        best_iou_unseen=_mean([r[2] for r in rows if not r[0].look_seen]),
    )


def mask_ious(proposals: Tensor, truth: Tensor) -> Tensor:
    """[N,Q] IoU of truth [N,S,S] bool with proposals [Q,S,S] bool."""
    wanted, offered = truth.flatten(1).float(), proposals.flatten(1).float()
    inside = wanted @ offered.T
    union = wanted.sum(1)[:, None] + offered.sum(1)[None, :] - inside
    return inside / union.clamp(min=1)


def _segment_rows(
    prediction: Prediction,
    result: SegmentationOutput,
    annotation: PanopticAnnotation,
    segments: Sequence[SceneSegment],
) -> list[tuple[SceneSegment, bool, float]]:
    """(segment, found and rightly named, IoU of its best proposal) of each true segment."""
    truth = torch.stack([annotation.segment_ids == s.id for s in segments])
    proposals = prediction.proposals()
    best = mask_ious(proposals, truth).amax(1) if len(proposals) else torch.zeros(len(segments))
    right = torch.zeros(len(segments), dtype=torch.bool)
    if result.segments:
        found = torch.stack([result.segment_ids == s.id for s in result.segments])
        names = torch.tensor([s.category_id for s in result.segments])
        wanted = torch.tensor([s.category_id for s in segments])
        right = ((mask_ious(found, truth) > 0.5) & (names[None, :] == wanted[:, None])).any(1)
    return [(s, bool(r), float(b)) for s, r, b in zip(segments, right, best, strict=True)]


def _cell(rows: Sequence[tuple[SceneSegment, bool, float]]) -> Cell:
    return Cell(
        num_segments=len(rows),
        found=_mean([float(row[1]) for row in rows]),
        best_iou=_mean([row[2] for row in rows]),
        above_75=_mean([float(row[2] > 0.75) for row in rows]),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")

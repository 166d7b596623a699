"""Random truths and predictions for property tests."""

from __future__ import annotations

import numpy as np
import torch

from frozenseg.types import Category, PanopticAnnotation, Segment, SegmentationOutput, TruthSegment, Vocabulary

VOCABULARY = Vocabulary(categories=tuple(Category(name=f"c{i}", is_thing=i < 3) for i in range(5)))


def scene(seed: int, size: tuple[int, int] = (24, 32)) -> tuple[SegmentationOutput, PanopticAnnotation]:
    """A truth of blocks with void and crowds, and a prediction that moves, renames and drops some of it."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 7, (size[0] // 4, size[1] // 4)).repeat(4, 0).repeat(4, 1)
    ids = np.concatenate([[0], rng.choice(10**6, 6, replace=False) + 1])
    true_map = ids[blocks].astype(np.int32)
    category = rng.integers(0, 5, 7)
    crowd = rng.random(7) < 0.2
    truth = tuple(
        TruthSegment(
            id=int(ids[i]), category_id=int(category[i]), is_thing=bool(category[i] < 3), is_crowd=bool(crowd[i])
        )
        for i in range(1, 7)
        if (blocks == i).any()
    )
    moved = np.roll(blocks, int(rng.integers(0, 3)), 1)
    moved[moved == int(rng.integers(1, 7))] = 0
    guessed = np.where(rng.random(7) < 0.3, rng.integers(0, 5, 7), category)
    predicted = tuple(
        Segment(id=i, category_id=int(guessed[i]), is_thing=True, score=1.0, area=0)
        for i in range(1, 7)
        if (moved == i).any()
    )
    return (
        SegmentationOutput(segment_ids=torch.from_numpy(moved.astype(np.int32)), segments=predicted),
        PanopticAnnotation(segment_ids=torch.from_numpy(true_map), segments=truth),
    )


def renumbered(output: SegmentationOutput, seed: int) -> SegmentationOutput:
    """The same prediction with other ids and its segments in another order."""
    rng = np.random.default_rng(seed)
    new = rng.choice(256**3 - 1, len(output.segments), replace=False) + 1
    ids = torch.zeros_like(output.segment_ids)
    segments = []
    for number, segment in zip(new.tolist(), output.segments, strict=True):
        ids[output.segment_ids == segment.id] = number
        segments.append(
            Segment(id=number, category_id=segment.category_id, is_thing=segment.is_thing, score=1.0, area=0)
        )
    return SegmentationOutput(segment_ids=ids, segments=tuple(segments[i] for i in rng.permutation(len(segments))))

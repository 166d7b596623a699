"""The figures of docs/miniature.md: scores on fresh scenes, proposals of decoder and SAM, time of a prediction.

python -m benchmarks.miniature --seeds 5 --scenes 60
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from frozenseg.decoder import MaskDecoder
from frozenseg.inference.proposals import proposals
from frozenseg.inference.sam_masks import PUBLISHED, SEGMENT_ANYTHING, GridSettings, SamMaskGenerator
from frozenseg.inference.segmenter import Segmenter
from frozenseg.miniature import full_vocabulary, make_scene
from frozenseg.miniature.assemble import MODEL_FOLDER, assemble
from frozenseg.miniature.evaluate import GEOMETRY, Scores, evaluate, mask_ious
from frozenseg.miniature.grid_masks import MINIATURE_GRID
from frozenseg.miniature.pretraining import ScenePool
from frozenseg.miniature.sam_points import point_quality
from frozenseg.miniature.views import FixedViews, make_views
from frozenseg.model import load_model

_SERIES = 5000
_ENSEMBLE = "default with SAM's masks (--ensemble)"
_PUBLISHED_ENSEMBLE = "the same, in the semantic result only (paper Eq. 4)"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    model: Path = MODEL_FOLDER
    seeds: int = 5
    """series of scenes, none of them used in training"""
    scenes: int = 60
    """of each series"""
    sam_scenes: int = 40
    """of the first series, for SAM's masks"""
    only_sam: bool = False
    """nothing but SAM's masks"""


def _line(name: str, scores: Sequence[Scores]) -> str:
    def mean(key: str) -> str:
        values = [100 * getattr(s, key) for s in scores]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.1f}{spread}"

    return f"{name}: mIoU {mean('miou_seen')} / {mean('miou_unseen')}, PQ {mean('pq_seen')} / {mean('pq_unseen')}"


def _cells(scores: Sequence[Scores]) -> None:
    print("things: look, outline | segments | found and named | mean best IoU | best IoU > .75")
    for key in scores[0].cells:
        cells = [s.cells[key] for s in scores]
        total = sum(c.num_segments for c in cells)
        means = [sum(getattr(c, f) * c.num_segments for c in cells) / total for f in ("found", "best_iou", "above_75")]
        name = ", ".join("seen" if flag else "unseen" for flag in key)
        print(f"  {name} | {total} | " + " | ".join(f"{100 * mean:.1f}" for mean in means))


def _proposal_rows(name: str, views: FixedViews, masks: Sequence[torch.Tensor]) -> None:
    """Mean best IoU and recall at .75 over segments, seen and unseen looks."""
    best: dict[bool, list[float]] = {True: [], False: []}
    for offered, annotation, segments in zip(masks, views.annotations, views.segments, strict=False):
        truth = torch.stack([annotation.segment_ids == s.id for s in segments])
        ious = mask_ious(offered, truth).amax(1) if len(offered) else torch.zeros(len(segments))
        for segment, iou in zip(segments, ious.tolist(), strict=True):
            best[segment.look_seen].append(iou)
    parts = [
        f"{100 * statistics.mean(values):.1f} / {100 * statistics.mean(float(v > 0.75) for v in values):.1f}"
        for values in best.values()
    ]
    count = statistics.mean(len(offered) for offered in masks)
    print(f"  {name} | {count:.1f} | {parts[0]} | {parts[1]}")


def _proposals(segmenter: Segmenter, views: FixedViews, count: int) -> None:
    print("proposals | masks a scene | seen: mean best IoU / recall at .75 | unseen: the same")
    predictions = segmenter.predict_features(
        views.features(range(count)), [GEOMETRY] * count, views.vocabulary, (), None, [str(i) for i in range(count)]
    )
    own = [prediction.proposals() for prediction in predictions]
    _proposal_rows("decoder", views, own)
    sam = segmenter.model.sam
    assert sam is not None, "the miniature model has a SAM"
    strict = dataclasses.replace(SEGMENT_ANYTHING, points_per_side=16)
    open_grid = GridSettings(points_per_side=16, min_predicted_iou=0.0, min_stability=0.0)
    published = dataclasses.replace(PUBLISHED, points_per_side=16, min_region_area=MINIATURE_GRID.min_region_area)
    grids = {
        "SAM, filters at .5": MINIATURE_GRID,
        "SAM, published": published,
        "SAM, segment-anything's": strict,
        "SAM, no filter": open_grid,
    }
    for name, settings in grids.items():
        generator = SamMaskGenerator(sam, settings)
        start = time.process_time()
        found = [generator.from_embedding(views.maps[5][i].float(), GEOMETRY) for i in range(count)]
        seconds = (time.process_time() - start) / count
        masks = [proposals(m.logits.float(), GEOMETRY) for m in found]
        _proposal_rows(f"{name} ({seconds:.2f} CPU s)", views, masks)
        if settings is MINIATURE_GRID:
            _proposal_rows("decoder and SAM", views, [torch.cat(pair) for pair in zip(own, masks, strict=True)])
    quality = point_quality(sam, ScenePool.make(_SERIES, count), points_per_segment=2)
    print("SAM's masks of random points: " + ", ".join(f"{name} {value:.3f}" for name, value in quality.items()))


def _time(segmenter: Segmenter) -> None:
    pictures = [make_scene(77, i).jpeg() for i in range(8)]
    vocabulary = full_vocabulary()
    segmenter(pictures[0], vocabulary).panoptic()
    times = []
    for picture in pictures[1:]:
        start = time.process_time()
        segmenter(picture, vocabulary).panoptic()
        times.append(time.process_time() - start)
    print(f"one prediction, picture to panoptic result, one thread: {statistics.median(times):.3f} CPU s (median)")


def main() -> int:
    arguments = tyro.cli(Arguments, description=__doc__)
    torch.set_num_threads(1)
    model = load_model(arguments.model)
    assert model.sam is not None, "the miniature model has a SAM"
    segmenter = Segmenter(model)
    torch.manual_seed(0)
    untrained = Segmenter(assemble(model.clip, model.sam, MaskDecoder(model.spec.decoder).eval()))
    _time(segmenter)
    readings = {
        "default": {},
        "decoder's classes alone": {"alpha": 0.0, "beta": 0.0},
        "CLIP's classes alone": {"alpha": 1.0, "beta": 1.0},
        "beta 1": {"beta": 1.0},
        "alpha .6, beta 1": {"alpha": 0.6, "beta": 1.0},
    }
    if arguments.only_sam:
        views = make_views(model.clip, model.sam, full_vocabulary(), "all", arguments.sam_scenes, _SERIES)
        _proposals(segmenter, views, arguments.sam_scenes)
        return 0
    scores: dict[str, list[Scores]] = {
        name: [] for name in (*readings, _PUBLISHED_ENSEMBLE, _ENSEMBLE, "untrained decoder")
    }
    first = None
    for seed in range(arguments.seeds):
        views = make_views(model.clip, model.sam, full_vocabulary(), "all", arguments.scenes, _SERIES + seed)
        first = first or views
        for name, changes in readings.items():
            scores[name].append(evaluate(segmenter, views, dataclasses.replace(segmenter.options, **changes)))
        scores["untrained decoder"].append(evaluate(untrained, views))
        generator = SamMaskGenerator(model.sam, segmenter.grid)
        sam_masks = tuple(generator.from_embedding(embedding.float(), GEOMETRY) for embedding in views.maps[5])
        ensemble = dataclasses.replace(segmenter.options, openseg=True)
        scores[_ENSEMBLE].append(evaluate(segmenter, views, ensemble, sam_masks))
        semantic_only = dataclasses.replace(ensemble, sam_panoptic_weight=0.0)
        scores[_PUBLISHED_ENSEMBLE].append(evaluate(segmenter, views, semantic_only, sam_masks))
    print(f"{arguments.seeds} series of {arguments.scenes} fresh scenes, seen / unseen, mean ± deviation over series")
    for name, row in scores.items():
        print(_line(name, row))
    _cells(scores["default"])
    assert first is not None
    _proposals(segmenter, first, min(arguments.sam_scenes, arguments.scenes))
    return 0


if __name__ == "__main__":
    sys.exit(main())

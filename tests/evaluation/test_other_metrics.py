from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frozenseg.data.coco_instances import CocoInstances
from frozenseg.data.rle import to_rle
from frozenseg.errors import UserInputError
from frozenseg.evaluation import (
    IGNORED,
    AveragePrecision,
    CountTable,
    ProposalRecall,
    SemanticIoU,
    bootstrap_interval,
    semantic_labels,
)
from frozenseg.evaluation.instance_files import score_instance_files
from frozenseg.types import Category, Instances, Vocabulary

from .random_scenes import VOCABULARY, scene


def vocabulary(num: int) -> Vocabulary:
    return Vocabulary(categories=tuple(Category(name=f"n{i}") for i in range(num)))


def labels(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Prediction with some void, truth with ignored pixels."""
    rng = np.random.default_rng(seed)
    truth = rng.choice([0, 1, 3, 255], (9, 11)).astype(np.int64)
    predicted = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(-1, 5, truth.shape))
    return predicted, truth


@given(seeds=st.lists(st.integers(0, 1000), min_size=1, max_size=5, unique=True))
@settings(max_examples=30, deadline=None)
def test_semantic_scores_are_those_of_the_confusion_matrix(seeds: list[int]) -> None:
    metric, halves = SemanticIoU(vocabulary(5)), [SemanticIoU(vocabulary(5)), SemanticIoU(vocabulary(5))]
    confusion = np.zeros((5, 6))
    for number, seed in enumerate(seeds):
        predicted, truth = labels(seed)
        metric.update(torch.from_numpy(predicted), truth, str(seed))
        halves[number % 2].update(predicted, truth, str(seed))
        for t, p in zip(truth.reshape(-1), predicted.reshape(-1), strict=True):
            if t < 5:
                confusion[t, p if 0 <= p < 5 else 5] += 1
    true, right, predicted_pixels = confusion.sum(1), np.diag(confusion), confusion.sum(0)[:5]
    present = true > 0
    iou = right[present] / (true + predicted_pixels - right)[present]
    scores = metric.compute()
    assert scores.num_categories == present.sum()
    assert scores.miou == pytest.approx(iou.mean())
    assert scores.fwiou == pytest.approx((iou * true[present]).sum() / true.sum())
    assert scores.pixel_accuracy == pytest.approx(right.sum() / true.sum())
    assert scores.mean_accuracy == pytest.approx((right[present] / true[present]).mean())
    halves[1].merge(halves[0])
    assert repr(halves[1].compute()) == repr(scores)


def test_absent_categories_and_ignored_pixels() -> None:
    metric = SemanticIoU(vocabulary(3), seen=[True, False, False])
    # Category 2 is only predicted, once on a labelled pixel (an error of category 0) and once on an ignored one.
    metric.update(torch.tensor([[0, 2, 2, 0]]), torch.tensor([[0, 0, 255, 255]]))
    scores = metric.compute()
    assert (scores.miou, scores.pixel_accuracy, scores.num_categories) == (0.5, 0.5, 1)
    assert math.isnan(scores.per_category[2].iou)
    assert scores.miou_seen == 0.5
    assert scores.miou_unseen is not None
    assert math.isnan(scores.miou_unseen)
    assert math.isnan(SemanticIoU(vocabulary(3)).compute().miou)
    with pytest.raises(UserInputError, match=r"size \(1, 4\), found \(1, 3\)"):
        metric.update(np.zeros((1, 3), dtype=int), np.zeros((1, 4), dtype=int))
    with pytest.raises(UserInputError, match="mask of 3 categories"):
        SemanticIoU(vocabulary(3), seen=[True])


def test_semantic_labels_of_a_panoptic_truth() -> None:
    _, truth = scene(5)
    found = semantic_labels(truth)
    category = {s.id: s.category_id for s in truth.segments} | {0: IGNORED}
    expected = [[category[i] for i in row] for row in truth.segment_ids.tolist()]
    assert found.tolist() == expected


def test_bootstrap_covers_the_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(100):
        table = CountTable(1, 1)
        for number in range(60):
            table.add(f"{number}", np.array([0]), np.array([[rng.exponential()]]))
        interval = bootstrap_interval(table, lambda t: t[..., 0, 0] / 60, trial, num_resamples=300)
        covered += interval.low <= 1.0 <= interval.high
        assert interval.low < interval.value < interval.high
    assert 86 <= covered <= 99


def test_recall_by_hand() -> None:
    metric = ProposalRecall(vocabulary(3), seen=[True, False, False])
    truth = torch.tensor([[0, 0, 0, 0, 1, 1, 255, 255]])
    proposals = torch.zeros((2, 1, 8), dtype=torch.bool)
    proposals[0, 0, :3] = True  # IoU 3/4 with category 0: strictly above 0.5, not above 0.75.
    proposals[1, 0, 4:8] = True  # Ignored pixels count in the union: IoU 2/4 with category 1, not above 0.5.
    metric.update(proposals, truth, "a")
    scores = metric.compute()
    assert (scores.all.num_regions, scores.all.recalled) == (2, (1, 0, 0))
    assert scores.seen is not None
    assert scores.unseen is not None
    assert (scores.seen.recalled, scores.unseen.recalled) == ((1, 0, 0), (0, 0, 0))
    assert scores.seen.recall == (1.0, 0.0, 0.0)
    metric.update(torch.zeros((0, 1, 8), dtype=torch.bool), truth, "b")
    assert metric.compute([0.5]).all.recall == (0.25,)
    assert metric.interval("seen", num_resamples=50).value == 0.5
    assert metric.compute().all.num_regions == 4
    with pytest.raises(UserInputError, match=r"size \(1, 8\), found \(1, 1, 7\)"):
        metric.update(torch.zeros((1, 1, 7), dtype=torch.bool), truth)


@given(seed=st.integers(0, 10**6), num=st.integers(0, 80))
@settings(max_examples=25, deadline=None)
def test_recall_equals_a_loop(seed: int, num: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, (6, 7))
    proposals = rng.random((num, 6, 7)) < rng.random((num, 1, 1))
    metric = ProposalRecall(vocabulary(4))
    metric.update(torch.from_numpy(proposals), truth)
    expected = [0, 0, 0]
    for category in np.unique(truth):
        region = truth == category
        best = max((((region & p).sum() / (region | p).sum()) for p in proposals), default=0.0)
        expected = [count + (best > t) for count, t in zip(expected, (0.5, 0.75, 0.9), strict=True)]
    assert list(metric.compute().all.recalled) == expected


@pytest.mark.shared
@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_published_average_precision(shared_dir: Path, kind: str) -> None:
    folder = shared_dir / "samples" / "ap_oracle"
    text = (folder / "val2014_fake_eval_res.txt").read_text().split(f"type={kind}")[1].split("type=")[0]
    answers = [float(line.rsplit("=", 1)[1]) for line in text.splitlines() if "maxDets" in line]
    metric = score_instance_files(
        CocoInstances(folder / "instances_val2014_100.json", ""),
        folder / f"instances_val2014_fake{kind}100_results.json",
        kind=kind,  # type: ignore[arg-type]
    )
    assert isinstance(metric, AveragePrecision)
    s = metric.compute()
    found = (s.ap, s.ap50, s.ap75, s.ap_small, s.ap_medium, s.ap_large)
    recalls = (s.ar1, s.ar10, s.ar100, s.ar_small, s.ar_medium, s.ar_large)
    assert [round(number, 3) for number in (*found, *recalls)] == answers
    # Two workers, each with every other image.
    workers = [AveragePrecision(metric.vocabulary, kind=metric.kind) for _ in range(2)]
    for number, image in enumerate(metric.state()):
        workers[number % 2].add(image)
    workers[1].merge(workers[0])
    assert repr(workers[1].compute()) == repr(s)


def instances(*masks: torch.Tensor, categories: list[int], scores: list[float]) -> Instances:
    stacked = torch.stack(masks) if masks else torch.zeros((0, 24, 32), dtype=torch.bool)
    return Instances(
        masks=stacked, category_ids=torch.tensor(categories, dtype=torch.int64), scores=torch.tensor(scores)
    )


def test_instances_of_a_panoptic_truth() -> None:
    seed = next(s for s in range(100) if sum(t.is_thing and not t.is_crowd for t in scene(s)[1].segments) >= 3)
    _, truth = scene(seed)
    things = [s for s in truth.segments if s.is_thing and not s.is_crowd]
    perfect = instances(
        *(truth.segment_ids == s.id for s in things),
        categories=[s.category_id for s in things],
        scores=[0.5] * len(things),
    )
    seen = [True, False, False, True, True]
    metric = AveragePrecision(VOCABULARY, seen)
    metric.update(perfect, truth, "a")
    assert metric.compute().ap == pytest.approx(1.0)
    assert metric.interval(num_resamples=5).value == pytest.approx(1.0)
    known = {name: ap for name, ap in metric.compute().ap_per_category if not math.isnan(ap)}
    assert known.keys() == {f"c{s.category_id}" for s in things}
    metric.update(instances(categories=[], scores=[]), truth, "b")
    assert metric.compute().ap == pytest.approx(0.5, abs=0.01)
    with pytest.raises(UserInputError, match="'b' twice"):
        metric.update(perfect, truth, "b")
    wrong = instances(torch.ones((2, 2), dtype=torch.bool), categories=[0], scores=[1.0])
    with pytest.raises(UserInputError, match=r"size \(24, 32\), found \(2, 2\)"):
        metric.update(wrong, truth, "c")
    assert math.isnan(AveragePrecision(VOCABULARY).compute().ap)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1, 2]], "expected polygons or run lengths"),
        ([[1, 2, "a", 4, 5, 6]], "expected polygons or run lengths"),
        ([], "expected polygons or run lengths"),
        (7, "expected polygons or run lengths"),
        ({"size": [5, 5]}, "expected polygons or run lengths"),
        ({"size": [4, 5], "counts": [20]}, r"image's size \(5, 5\), found \(4, 5\)"),
        ({"size": [5, 5], "counts": [3, 4000]}, "at most 25 pixels, found 4000"),
    ],
)
def test_masks_that_are_none(segmentation: object, message: str) -> None:
    if isinstance(segmentation, dict) and segmentation.get("size") == [4, 5]:
        segmentation = {"size": [4, 5], "counts": "d0"}
    with pytest.raises(UserInputError, match=f"here: .*{message}"):
        to_rle(segmentation, (5, 5), "here")


TRUTH = {
    "images": [{"id": 1, "file_name": "1.jpg", "height": 10, "width": 10}],
    "categories": [{"id": 3, "name": "cat"}],
    "annotations": [
        {"image_id": 1, "category_id": 3, "area": 4, "bbox": [0, 0, 2, 2], "segmentation": [[0, 0, 2, 0, 2, 2]]}
    ],
}


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({}, "expected a list of detections, found dict"),
        ([{"image_id": 2, "category_id": 3, "bbox": [0, 0, 1, 1], "score": 1}], "detection 0: .*found '2'"),
        ([{"image_id": 1, "category_id": 4, "bbox": [0, 0, 1, 1], "score": 1}], "detection 0: .*found 4"),
        ([{"image_id": 1, "category_id": 3, "bbox": [0, 0, 1], "score": 1}], r"\[x, y, width, height\]"),
        ([{"image_id": 1, "category_id": 3, "bbox": [0, 0, 1, 1]}], "expected the key 'score'"),
        ([{"image_id": 1, "category_id": 3, "score": 1}], "expected the key 'bbox'"),
    ],
)
def test_results_that_do_not_fit(tmp_path: Path, results: object, message: str) -> None:
    (tmp_path / "truth.json").write_text(json.dumps(TRUTH))
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(UserInputError, match=rf"results\.json: .*{message}"):
        score_instance_files(CocoInstances(tmp_path / "truth.json", ""), tmp_path / "results.json", kind="bbox")

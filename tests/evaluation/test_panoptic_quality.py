from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.baselines import plain_pq
from frozenseg.data import CocoPanoptic
from frozenseg.errors import UserInputError
from frozenseg.evaluation import PanopticQuality
from frozenseg.evaluation.panoptic_files import PanopticPredictions, score_panoptic_files
from frozenseg.types import PanopticAnnotation, Segment, SegmentationOutput, TruthSegment

from .random_scenes import VOCABULARY, renumbered, scene

SEEDS = st.lists(st.integers(0, 10**6), min_size=1, max_size=6, unique=True)


def scored(seeds: list[int], metric: PanopticQuality | None = None) -> PanopticQuality:
    metric = metric or PanopticQuality(VOCABULARY)
    for seed in seeds:
        metric.update(*scene(seed), image_id=str(seed))
    return metric


def annotation(ids: list[list[int]], *segments: TruthSegment) -> PanopticAnnotation:
    return PanopticAnnotation(segment_ids=torch.tensor(ids, dtype=torch.int32), segments=segments)


def output(ids: list[list[int]], categories: dict[int, int]) -> SegmentationOutput:
    segments = tuple(Segment(id=i, category_id=c, is_thing=True, score=1.0, area=0) for i, c in categories.items())
    return SegmentationOutput(segment_ids=torch.tensor(ids, dtype=torch.int32), segments=segments)


@pytest.mark.shared
def test_reference_answers_to_the_last_digit(shared_dir: Path) -> None:
    samples = shared_dir / "samples"
    truth_dir, predicted = samples / "coco_panoptic", samples / "pq_oracle" / "coco"
    truth = CocoPanoptic(truth_dir / "panoptic.json", truth_dir / "images", truth_dir / "panoptic")
    predictions = PanopticPredictions(predicted / "predictions.json", predicted / "predictions", truth)
    scores = score_panoptic_files(truth, predictions).compute()
    answers = json.loads((predicted / "answers.json").read_text())
    for group, name in ((scores.all, "All"), (scores.things, "Things"), (scores.stuff, "Stuff")):
        found = {"pq": group.pq, "sq": group.sq, "rq": group.rq, "n": group.num_categories}
        assert found == answers[name]
    for dataset_id, answer in answers["per_class"].items():
        one = scores.per_category[truth.contiguous_ids[int(dataset_id)]]
        assert {"pq": one.pq, "sq": one.sq, "rq": one.rq} == answer
    paths = (truth_dir / "panoptic.json", truth_dir / "panoptic")
    assert plain_pq.score(*paths, predicted / "predictions.json", predicted / "predictions") == answers["All"]


@given(seeds=SEEDS)
@settings(max_examples=40, deadline=None)
def test_equal_to_the_plain_algorithm(seeds: list[int]) -> None:
    totals = scored(seeds).counts.totals()
    counts: dict[int, list[float]] = defaultdict(lambda: [0.0, 0, 0, 0])
    for seed in seeds:
        predicted, truth = scene(seed)
        plain_pq.count_image(
            truth.segment_ids.numpy().astype(np.int64),
            predicted.segment_ids.numpy().astype(np.int64),
            [{"id": s.id, "category_id": s.category_id, "iscrowd": s.is_crowd} for s in truth.segments],
            [{"id": s.id, "category_id": s.category_id} for s in predicted.segments],
            counts,
        )
    plain = np.array([counts[category] for category in range(5)])
    np.testing.assert_allclose(totals, plain, rtol=1e-14, atol=0)


@given(seeds=SEEDS, order=st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_splitting_over_workers_and_order_change_nothing(seeds: list[int], order: object) -> None:
    whole = scored(seeds)
    shuffled = list(seeds)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    cut = len(seeds) // 2
    first, second = scored(shuffled[:cut]), scored(shuffled[cut:])
    first.merge(second)
    assert repr(first.compute()) == repr(whole.compute())
    assert repr(first.interval(num_resamples=20)) == repr(whole.interval(num_resamples=20))
    restored = PanopticQuality(VOCABULARY)
    restored.load_state(json.loads(json.dumps(first.state())))
    assert repr(restored.compute()) == repr(whole.compute())


@given(seed=st.integers(0, 10**6), other=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_ids_are_only_names(seed: int, other: int) -> None:
    predicted, truth = scene(seed)
    first, second = PanopticQuality(VOCABULARY), PanopticQuality(VOCABULARY)
    first.update(predicted, truth)
    second.update(renumbered(predicted, other), truth)
    assert repr(first.compute()) == repr(second.compute())


@given(seed=st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_the_truth_without_its_crowds_is_perfect(seed: int) -> None:
    _, truth = scene(seed)
    objects = [s for s in truth.segments if not s.is_crowd]
    kept = torch.isin(truth.segment_ids, torch.tensor([s.id for s in objects], dtype=torch.int32))
    metric = PanopticQuality(VOCABULARY)
    metric.update(
        SegmentationOutput(
            segment_ids=truth.segment_ids * kept,
            segments=tuple(
                Segment(id=s.id, category_id=s.category_id, is_thing=s.is_thing, score=1.0, area=0) for s in objects
            ),
        ),
        truth,
    )
    totals = metric.counts.totals()
    assert totals[:, 2:].sum() == 0
    assert totals[:, 0].tolist() == totals[:, 1].tolist()
    assert totals[:, 1].sum() == sum(not s.is_crowd for s in truth.segments)


def test_void_lowers_the_union_and_excuses() -> None:
    # Segment 1 fills 4 of the 6 pixels of the prediction, the other 2 are void: IoU 4/4, not 4/6.
    truth = annotation([[1, 1, 0, 0], [1, 1, 0, 0]], TruthSegment(id=1, category_id=0, is_thing=True))
    metric = PanopticQuality(VOCABULARY)
    metric.update(output([[8, 8, 8, 0], [8, 8, 8, 9]], {8: 0, 9: 1}), truth)
    # 9 lies wholly on void: neither match nor false positive.
    assert metric.counts.totals()[0].tolist() == [1.0, 1.0, 0.0, 0.0]
    assert metric.counts.totals()[1].tolist() == [0.0] * 4


def test_crowds_excuse_only_their_category() -> None:
    crowd = TruthSegment(id=5, category_id=0, is_thing=True, is_crowd=True)
    truth = annotation([[5, 5, 5, 5]], crowd)
    metric = PanopticQuality(VOCABULARY)
    metric.update(output([[1, 1, 2, 2]], {1: 0, 2: 1}), truth)
    assert metric.counts.totals()[:2].tolist() == [[0.0] * 4, [0.0, 0.0, 1.0, 0.0]]
    # Exactly half on the crowd is not more than half.
    half = PanopticQuality(VOCABULARY)
    half.update(
        output([[1, 1, 1, 1]], {1: 0}),
        annotation([[5, 5, 6, 6]], crowd, TruthSegment(id=6, category_id=1, is_thing=True)),
    )
    assert half.counts.totals()[0].tolist() == [0.0, 0.0, 1.0, 0.0]


def test_iou_of_exactly_one_half_is_no_match() -> None:
    truth = annotation([[1, 1, 2, 2]], *(TruthSegment(id=i, category_id=i, is_thing=True) for i in (1, 2)))
    metric = PanopticQuality(VOCABULARY)
    metric.update(output([[7, 0, 0, 0]], {7: 1}), truth)
    assert metric.counts.totals()[1].tolist() == [0.0, 0.0, 1.0, 1.0]


def test_empty_prediction_and_empty_truth() -> None:
    truth = annotation([[1, 1]], TruthSegment(id=1, category_id=3, is_thing=False))
    metric = PanopticQuality(VOCABULARY, seen=[True, True, True, False, False])
    metric.update(output([[0, 0]], {}), truth, "a")
    scores = metric.compute()
    assert (scores.all.pq, scores.all.num_categories, scores.stuff.num_categories) == (0.0, 1, 1)
    assert math.isnan(scores.things.pq)
    assert scores.unseen is not None
    assert scores.unseen.pq == 0.0
    metric = PanopticQuality(VOCABULARY)
    metric.update(output([[3, 3]], {3: 2}), annotation([[0, 0]]))
    assert metric.compute().all.num_categories == 0
    assert math.isnan(PanopticQuality(VOCABULARY).compute().all.pq)


def test_seen_and_unseen_are_means_over_their_categories() -> None:
    seen = [True, False, True, False, False]
    metric = scored([1, 2, 3, 4, 5], PanopticQuality(VOCABULARY, seen=torch.tensor(seen)))
    scores = metric.compute()
    assert scores.seen is not None
    assert scores.unseen is not None
    pq = np.array([c.pq for c in scores.per_category])
    assert scores.seen.pq == pytest.approx(np.nanmean(pq[seen]))
    assert scores.unseen.pq == pytest.approx(np.nanmean(pq[~np.array(seen)]))
    interval = metric.interval("unseen", num_resamples=50)
    assert interval.low <= interval.value <= interval.high
    with pytest.raises(UserInputError, match="seen ones, found none"):
        PanopticQuality(VOCABULARY).interval("seen")


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (output([[4, 4]], {}), "prediction: expected only ids of its 0 segments, found 4 in the map"),
        (output([[0, 0]], {4: 1}), "expected pixels of segment 4, found none"),
        (output([[4, 4, 4]], {4: 1}), r"size \(1, 2\), found \(1, 3\)"),
    ],
)
def test_predictions_that_contradict_themselves(prediction: SegmentationOutput, message: str) -> None:
    with pytest.raises(UserInputError, match=message) as error:
        PanopticQuality(VOCABULARY).update(prediction, annotation([[0, 0]]), "im")
    assert "image 'im'" in str(error.value)


def test_an_image_counts_once() -> None:
    metric = scored([1, 2])
    with pytest.raises(UserInputError, match="image '2' twice"):
        metric.update(*scene(2), image_id="2")
    with pytest.raises(UserInputError, match="image '1' twice"):
        metric.merge(scored([1]))


def test_many_ids_fall_back_to_a_search() -> None:
    from frozenseg.data.panoptic_png import positions

    rng = np.random.default_rng(0)
    known = np.concatenate([[0], rng.choice(256**3 - 1, 3000, replace=False) + 1]).astype(np.int32)
    assert positions(known, known).tolist() == list(range(3001))
    assert positions(known[:40][::-1], known[:40]).tolist() == list(range(40))[::-1]

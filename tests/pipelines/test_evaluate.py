"""Evaluation: the same numbers however the work is cut, resumption, what is refused, and the card."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pipelines.evaluate
from frozenseg.data import CocoPanoptic, decode_annotation
from frozenseg.errors import SkippedShareError, UserInputError
from frozenseg.evaluation import PanopticQuality
from frozenseg.model import build_model, save_model
from frozenseg.types import Category, Vocabulary
from pipelines.evaluate import DataSource, EvaluateOptions, card, evaluate, evaluated_vocabulary
from pipelines.segmenter_pool import PoolOptions, SegmenterSource, prefetched, slices
from tests.model.tiny import tiny_spec

HERE = PoolOptions(in_process=True)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    import warnings

    folder = tmp_path_factory.mktemp("model") / "tiny"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_model(build_model(tiny_spec()), folder)
    return str(folder)


pytestmark = pytest.mark.filterwarnings("ignore::frozenseg.model.RandomWeightsWarning")


def coco_source(data: CocoPanoptic) -> DataSource:
    return DataSource.at(str(Path(data.json_path).parent))


def test_parts_give_what_one_run_gives(
    make_coco: Callable[..., CocoPanoptic], tiny_folder: str, tmp_path: Path
) -> None:
    data = make_coco(5)
    source = SegmenterSource(model=tiny_folder)
    reports = []
    for per_part in (2, 5):
        options = EvaluateOptions(to=str(tmp_path / f"out{per_part}"), images_per_part=per_part)
        reports.append(evaluate(source, coco_source(data), options, HERE))
    assert json.dumps(reports[0]["scores"]) == json.dumps(reports[1]["scores"])
    assert json.dumps(reports[0]["intervals"]) == json.dumps(reports[1]["intervals"])
    # and what the library says without any pipeline
    segmenter, quality = source.build(), PanopticQuality(data.vocabulary)
    for sample in data:
        prediction = segmenter(sample.image_bytes, data.vocabulary)
        quality.update(prediction.panoptic(), decode_annotation(sample), sample.image_id)
    assert reports[0]["scores"]["panoptic"]["all"]["pq"] == quality.compute().all.pq
    assert reports[0]["num_images"] == 5
    assert reports[0]["notice"].startswith("RANDOM WEIGHTS: CLIP encoder, SAM encoder")
    written = json.loads((tmp_path / "out2" / "metrics.json").read_text())
    assert written["intervals"]["mIoU"]["all"]["value"] == reports[0]["intervals"]["mIoU"]["all"]["value"]
    page = (tmp_path / "out2" / "card.md").read_text()
    assert "**RANDOM WEIGHTS" in page
    assert "| red button |" in page
    assert page == card(reports[0])


def test_a_rerun_does_what_is_missing(
    make_coco: Callable[..., CocoPanoptic], tiny_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = coco_source(make_coco(4))
    source, options = SegmenterSource(model=tiny_folder), EvaluateOptions(to=str(tmp_path / "out"), images_per_part=1)
    first = evaluate(source, data, options, HERE)
    (tmp_path / "out" / "parts" / "000002.json").unlink()
    done: list[int] = []
    original = pipelines.evaluate.EvaluateActor.__call__

    def noting(self: Any, part: dict[str, Any]) -> dict[str, Any]:
        done.append(part["number"])
        return original(self, part)

    monkeypatch.setattr(pipelines.evaluate.EvaluateActor, "__call__", noting)
    again = evaluate(source, data, options, HERE)
    assert done == [2]
    assert json.dumps(again["scores"]) == json.dumps(first["scores"])
    with pytest.raises(UserInputError, match="different: model, options"):
        evaluate(
            SegmenterSource(model=tiny_folder, untrained=True),
            data,
            EvaluateOptions(to=str(tmp_path / "out"), images_per_part=1, options={"alpha": 0.1}),
            HERE,
        )


def test_unreadable_samples_are_limited(
    make_coco: Callable[..., CocoPanoptic], tiny_folder: str, tmp_path: Path
) -> None:
    data = make_coco(3)
    (Path(data.image_dir) / "1.jpg").write_bytes(b"nothing")
    source = SegmenterSource(model=tiny_folder)
    with pytest.raises(SkippedShareError, match="1 of 3 samples cannot be read"):
        evaluate(source, coco_source(data), EvaluateOptions(to=str(tmp_path / "a")), HERE)
    report = evaluate(source, coco_source(data), EvaluateOptions(to=str(tmp_path / "b"), max_skipped_share=0.5), HERE)
    assert report["num_images"] == 2
    assert "image '1'" in card(report)


def test_data_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match="found neither"):
        DataSource.at(str(tmp_path))


def vocabulary(*names: str) -> Vocabulary:
    return Vocabulary(categories=tuple(Category(name=name) for name in names))


def test_the_asked_vocabulary_must_mean_the_same() -> None:
    truth = vocabulary("cat", "dog")
    assert evaluated_vocabulary(truth, "") is truth
    assert evaluated_vocabulary(truth, "cat,kitten; dog").categories[0].names == ("cat", "kitten")
    with pytest.raises(UserInputError, match="expected the data set's 2 categories, found 1"):
        evaluated_vocabulary(truth, "cat;")
    with pytest.raises(UserInputError, match="expected 'dog' as category 1, found 'bird'"):
        evaluated_vocabulary(truth, "cat; bird")


def test_prefetching_keeps_order_and_errors() -> None:
    def load(number: int) -> int:
        if number == 3:
            raise UserInputError("three")
        return number * number

    found = list(prefetched(range(20), load, ahead=3))
    assert [item for item, _ in found] == list(range(20))
    assert isinstance(found[3][1], UserInputError)
    assert [r for i, r in found if i != 3] == [i * i for i in range(20) if i != 3]
    assert [list(s) for s in slices(5, 2)] == [[0, 1], [2, 3], [4]]

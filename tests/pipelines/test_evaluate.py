"""Evaluation: the same numbers however the work is cut, resumption, what is refused, and the card."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pipelines.evaluate
from frozenseg.cli import main
from frozenseg.data import CocoPanoptic, decode_annotation
from frozenseg.data.layout import InstanceLayout
from frozenseg.data.layouts import layout_of
from frozenseg.errors import SkippedShareError, UserInputError
from frozenseg.evaluation import PanopticQuality
from frozenseg.model import build_model, save_model
from frozenseg.types import Category, Vocabulary
from frozenseg.vocabulary import published_vocabulary
from pipelines.evaluate import EvaluateOptions, evaluate
from pipelines.evaluation_data import DataSource, evaluated_vocabulary
from pipelines.evaluation_row import row_arguments
from pipelines.run_card import card
from pipelines.segmenter_pool import PoolOptions, SegmenterSource, prefetched, slices
from tests.data.releases import write_release
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


def test_predictions_are_files_that_score_the_same(
    make_coco: Callable[..., CocoPanoptic], tiny_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_coco(3)
    out = tmp_path / "out"
    source = SegmenterSource(model=tiny_folder)
    report = evaluate(source, coco_source(data), EvaluateOptions(to=str(out), images_per_part=2), HERE)
    truth = ["--truth", data.json_path, "--truth-dir", data.panoptic_dir]
    files = ["--predictions", str(out / "predictions/panoptic.json"), "--predictions-dir"]
    assert main(["score", "panoptic", *truth, *files, str(out / "predictions/panoptic"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["all"] == report["scores"]["panoptic"]["all"]
    results = json.loads((out / "predictions/instances.json").read_text())
    assert {entry["category_id"] for entry in results} <= {3, 9}
    assert all(isinstance(entry["image_id"], int) for entry in results)
    run = json.loads((out / "metrics.json").read_text())["run"]
    assert {"model", "data", "vocabulary", "vocabulary name", "options", "code"} <= run.keys()
    assert f"| data | {run['data']} |" in (out / "card.md").read_text()


@pytest.mark.parametrize(
    ("name", "metrics"),
    [
        ("own-semantic", {"semantic", "proposals"}),
        ("own-instances", {"instances"}),
        ("lvis", {"instances"}),
        ("cityscapes-instances", {"instances"}),
        ("ade20k-panoptic", {"panoptic", "semantic", "instances", "proposals"}),
    ],
)
def test_named_data_sets(tiny_folder: str, tmp_path: Path, name: str, metrics: set[str]) -> None:
    """Every kind of truth: what is scored is what it allows, and a rerun gives the same."""
    root, out = tmp_path / "data", tmp_path / "out"
    write_release(name, root)
    source = SegmenterSource(model=tiny_folder)
    data = DataSource.chosen("", name, str(root), "")
    options = EvaluateOptions(to=str(out), options={"shortest_side": 32, "longest_side": 64})
    report = evaluate(source, data, options, HERE)
    assert report["scores"].keys() == metrics
    assert (out / "predictions/instances.json").exists() is ("instances" in metrics)
    assert (out / "predictions/panoptic.json").exists() is ("semantic" in metrics)
    assert json.dumps(evaluate(source, data, options, HERE)["scores"]) == json.dumps(report["scores"])


def test_the_published_settings_of_a_data_set() -> None:
    assert DataSource(dataset="cityscapes-panoptic").published_options() == {
        "shortest_side": 1024,
        "longest_side": 2560,
    }
    assert DataSource(dataset="bdd100k-panoptic").published_options() == {"object_threshold": 0.4}
    assert DataSource(dataset="ade20k-panoptic").published_options() == {}
    with pytest.raises(UserInputError, match="expected --data ADDRESS or --dataset NAME --root DIR, found both"):
        DataSource.chosen("a", "lvis", "b", "")
    with pytest.raises(UserInputError, match="--dataset lvis: expected --root"):
        DataSource.chosen("", "lvis", "", "")


@pytest.mark.parametrize("path", sorted(Path("configs/reproduce").glob("*.toml")), ids=lambda path: path.stem)
def test_rows_of_the_paper_name_what_exists(path: Path) -> None:
    found = row_arguments(path, "folder")
    assert layout_of(found["dataset"]).name == found["dataset"]
    assert path.stem == found["dataset"] + ("" if found["openseg"] else "-no-ensemble")
    assert found["vocabulary"] == "" or found["vocabulary"].startswith("folder/")
    assert f"`{path.stem}`" in Path("docs/reproduce.md").read_text()


@pytest.mark.shared
def test_published_vocabularies_mean_the_data_sets_categories(shared_dir: Path) -> None:
    for path in sorted(Path("configs/reproduce").glob("*.toml")):
        row = row_arguments(path, str(shared_dir / "vocabularies"))
        layout = layout_of(row["dataset"])
        if row["vocabulary"] and not isinstance(layout, InstanceLayout):
            truth = published_vocabulary(layout.vocabulary)
            asked = evaluated_vocabulary(truth, row["vocabulary"])
            assert [c.is_thing for c in asked.categories] == [c.is_thing for c in truth.categories], path.stem

"""Labeling: formats that others' tools read, each image once, errors, refusals."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

import pipelines.label
from frozenseg.data import CocoPanoptic, decode_id_map
from frozenseg.errors import MissingPathError, SkippedShareError, UserInputError
from frozenseg.losses import Criterion
from frozenseg.model import build_model
from frozenseg.training import LoopSettings, OptimizerSettings, StepDecay, TorchEngine
from frozenseg.training import run as run_loop
from frozenseg.vocabulary import load_vocabulary
from pipelines.corpus import find_corpus, image_ids, read_image_bytes
from pipelines.job import run_job
from pipelines.label import LabelActor, label
from pipelines.labeling.formats import FORMATS, write_part
from pipelines.labeling.options import LabelOptions
from pipelines.segmenter_pool import PoolOptions, SegmenterSource, run_parts
from pipelines.stream import epoch_rows, training_batches
from shards import ShardReader
from shards.__main__ import check
from tests.campaigns.label_hostile import KINDS
from tests.campaigns.label_hostile import run_campaign as run_hostile
from tests.campaigns.label_kills import run_campaign
from tests.model.tiny import tiny_spec
from tests.pipelines.test_stream import LocalStream, config_for
from tests.training.scenes import Recorder

pytestmark = pytest.mark.filterwarnings("ignore::frozenseg.model.RandomWeightsWarning")
HERE = PoolOptions(in_process=True)
VOCABULARY = "cat; dog,puppy; sky(stuff)"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five pictures of several kinds, in two folders, and a file that is none."""
    folder = tmp_path / "photos"
    (folder / "trip").mkdir(parents=True)
    names = ["a.jpg", "b.png", "trip/a.jpg", "trip/größe 1.png", "trip/c.webp"]
    for seed, name in enumerate(names):
        pixels = np.random.default_rng(seed).integers(0, 256, (40 + seed, 56, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "notes.doc").write_text("no image")
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def options(to: Path, **changes: Any) -> LabelOptions:
    return LabelOptions(**{"to": str(to), "vocabulary": VOCABULARY, "images_per_part": 2, **changes})


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools and numpy 2
def test_all_formats_are_read_by_others(photos: Path, tiny_source: SegmenterSource, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = label(tiny_source, str(photos), options(out, formats=FORMATS), HERE)
    assert (report.num_images, report.num_labelled, report.num_errors) == (5, 5, 0)
    panoptic = json.loads((out / "coco-panoptic" / "panoptic.json").read_text())
    assert len({a["image_id"] for a in panoptic["annotations"]}) == 5
    areas: dict[int, dict[int, int]] = {}
    for annotation in panoptic["annotations"]:
        ids = decode_id_map((out / "coco-panoptic" / annotation["file_name"]).read_bytes(), "x")
        found = {int(i): int(n) for i, n in zip(*np.unique(ids[ids > 0], return_counts=True), strict=True)}
        assert found == {s["id"]: s["area"] for s in annotation["segments_info"]}
        areas[annotation["image_id"]] = found
    # Our own reader of COCO's layout takes it, and so does the shard reader.
    assert len(CocoPanoptic(out / "coco-panoptic" / "panoptic.json", photos, out / "coco-panoptic")) == 5
    coco = COCO(str(out / "coco-instances" / "instances.json"))
    things = [s for a in panoptic["annotations"] for s in a["segments_info"] if s["category_id"] < 3]
    assert len(coco.getAnnIds()) == len(things)
    for annotation in coco.loadAnns(coco.getAnnIds()):
        assert coco.annToMask(annotation).sum() == annotation["area"]
    rows = [row for path in sorted((out / "parquet").iterdir()) for row in pyarrow.parquet.read_table(path).to_pylist()]
    assert len(rows) == sum(len(found) for found in areas.values())
    for row in rows:
        mask = coco_mask.decode({"size": [row["height"], row["width"]], "counts": row["rle"]})
        assert mask.sum() == row["area"]
        assert row["category"] in ("cat", "dog", "sky")
    semantic = sorted((out / "semantic-png").rglob("*.png"))
    assert len(semantic) == 5
    assert set(np.unique(np.asarray(Image.open(semantic[0])))) <= {0, 1, 2, 255}
    assert check(str(out / "webdataset")) == 0
    reader = ShardReader(out / "webdataset")
    assert len(reader) == 5
    images = [path for path in photos.rglob("*") if path.suffix in (".jpg", ".png", ".webp")]
    assert sorted(sample.image_bytes for sample in reader) == sorted(path.read_bytes() for path in images)
    assert sum(len(s.segments) for s in reader) == len(rows)
    assert pyarrow.parquet.read_table(out / "errors.parquet").num_rows == 0
    assert json.loads((out / "manifest.json").read_text())["num_labelled"] == 5


def test_an_interrupted_run_ends_with_the_same_files(
    photos: Path, tiny_source: SegmenterSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: Any = ("coco-panoptic", "parquet", "webdataset")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    label(tiny_source, str(photos), options(whole, formats=wanted), HERE)
    done: list[int] = []

    def dies_after_writing(storage: Any, formats: Any, part: int, *rest: Any) -> Any:
        done.append(part)
        result = write_part(storage, formats, part, *rest)
        if part == 1 and done.count(1) == 1:
            raise KeyboardInterrupt  # all files are there, the record is not
        return result

    monkeypatch.setattr(pipelines.label, "write_part", dies_after_writing)
    with pytest.raises(KeyboardInterrupt):
        label(tiny_source, str(photos), options(broken, formats=wanted), HERE)
    assert not (broken / "manifest.json").exists()
    report = label(tiny_source, str(photos), options(broken, formats=wanted), HERE)
    assert done == [0, 1, 1, 2]
    assert report.num_labelled == 3
    assert files(broken) == files(whole)
    assert label(tiny_source, str(photos), options(broken, formats=wanted), HERE).num_labelled == 0
    assert files(broken) == files(whole)


def test_errors_are_listed_and_limited(photos: Path, tiny_source: SegmenterSource, tmp_path: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not really")
    (photos / "empty.png").write_bytes(b"")
    with pytest.raises(SkippedShareError, match="2 of 7 images cannot be read"):
        label(tiny_source, str(photos), options(tmp_path / "a", max_error_share=0.2), HERE)
    out = tmp_path / "b"
    assert label(tiny_source, str(photos), options(out, max_error_share=0.5), HERE).num_errors == 2
    errors = pyarrow.parquet.read_table(out / "errors.parquet").to_pylist()
    assert sorted(error["file"] for error in errors) == ["broken.jpg", "empty.png"]
    assert all(error["reason"] for error in errors)
    # A rerun of a finished run remembers the errors.
    assert label(tiny_source, str(photos), options(out, max_error_share=0.5), HERE).num_errors == 2


def test_other_settings_in_the_same_folder_are_refused(
    photos: Path, tiny_source: SegmenterSource, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    label(tiny_source, str(photos / "trip"), options(out), HERE)
    before = files(out)
    for changed, name in [
        (options(out, vocabulary="cat; bird"), "vocabulary"),
        (options(out, min_score=0.5), "min_score"),
        (options(out, formats=("parquet",)), "formats"),
    ]:
        with pytest.raises(UserInputError, match=f"different: {name}"):
            label(tiny_source, str(photos / "trip"), changed, HERE)
    with pytest.raises(UserInputError, match="different: images, num_images"):
        label(tiny_source, str(photos), options(out), HERE)
    assert files(out) == before


def test_an_unknown_word_ends_the_run_and_leaves_the_folder_to_the_next(photos: Path, tmp_path: Path) -> None:
    source, out = SegmenterSource(model="miniature"), tmp_path / "out"
    with pytest.raises(UserInputError, match="it doesn't know: 'zebra'"):
        label(source, str(photos), options(out, vocabulary="green flag; zebra"), HERE)
    assert list(files(out)) == ["settings.json"]
    assert label(source, str(photos / "trip"), options(out, vocabulary="green flag"), HERE).num_errors == 0


def test_filters_turn_segments_to_void(photos: Path, tiny_source: SegmenterSource, tmp_path: Path) -> None:
    label(tiny_source, str(photos), options(tmp_path / "out", min_area=10**6), HERE)
    panoptic = json.loads((tmp_path / "out" / "coco-panoptic" / "panoptic.json").read_text())
    assert all(a["segments_info"] == [] for a in panoptic["annotations"])
    ids = decode_id_map((tmp_path / "out" / "coco-panoptic" / panoptic["annotations"][0]["file_name"]).read_bytes(), "")
    assert not ids.any()


def test_corpora_of_every_kind(photos: Path, tmp_path: Path) -> None:
    everything = find_corpus(str(photos))
    assert len(everything) == 5
    assert len({reference.image_id for reference in everything}) == 5
    assert [r.file_name for r in find_corpus(f"{photos}/**/*.jpg")] == ["a.jpg", "trip/a.jpg"]
    assert [r.image_id for r in find_corpus(str(photos / "b.png"))] == ["b"]
    listing = tmp_path / "list.txt"
    listing.write_text(f"# mine\nphotos/b.png\n{photos}/a.jpg\n\n")
    assert [len(read_image_bytes(r)) > 0 for r in find_corpus(str(listing))] == [True, True]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserInputError, match="found none"):
        find_corpus(str(tmp_path / "empty"))
    with pytest.raises(MissingPathError, match="no image matches"):
        find_corpus(f"{photos}/*.gif")
    with pytest.raises(MissingPathError):
        find_corpus(str(tmp_path / "nowhere"))


def test_ids_are_unique_and_fit_the_shard_format() -> None:
    names = ["a.jpg", "a.png", "x/y.jpg", "x_y.jpg", "ü.jpg", "plain_1.jpg", "n" * 200 + ".jpg", "dot.dot.jpg"]
    ids = image_ids(names)
    assert len(set(ids)) == len(names)
    assert ids[5] == "plain_1"
    assert all(0 < len(i) <= 72 and i.replace("-", "").replace("_", "").isalnum() and i.isascii() for i in ids)


@pytest.mark.parametrize("formats", [(), ("coco-panoptic", "tiff")])
def test_formats_that_are_none(tmp_path: Path, formats: Any) -> None:
    with pytest.raises(UserInputError, match="formats: expected some of coco-panoptic"):
        options(tmp_path, formats=formats)


def test_labels_are_trained_on(photos: Path, tiny_source: SegmenterSource, tmp_path: Path) -> None:
    """The decoder's loss on the labels falls: our reader gives images and masks that belong together."""
    vocabulary = load_vocabulary(VOCABULARY)
    wanted = options(tmp_path / "out", vocabulary=VOCABULARY, formats=("webdataset",))
    label(tiny_source, str(photos), wanted, HERE)
    reader = ShardReader(tmp_path / "out" / "webdataset")
    assert [c.name for c in reader.manifest.vocabulary.categories] == [c.name for c in vocabulary.categories]
    ids = tuple(i for file in reader.manifest.files for i in file.sample_ids)
    stream = config_for(reader.storage.address, mode="inline")
    rows = epoch_rows(ids, seed=0, epochs=range(8), multiple=5)
    streamed = training_batches(LocalStream(stream, rows), stream, 5)
    batches = [dataclasses.replace(item.batch, consumed=item.consumed) for item in streamed]
    assert all(sorted(batch.image_ids) == sorted(ids) for batch in batches)
    model = build_model(tiny_spec())
    torch.manual_seed(0)
    engine = TorchEngine(model.decoder, OptimizerSettings(learning_rate=1e-3))
    recorder = Recorder()
    limits = LoopSettings(num_steps=len(batches), num_samples=len(ids))
    schedule = StepDecay(base=1e-3)
    run_loop(engine, iter(batches), model.text(vocabulary), Criterion(64), schedule, limits, hooks=[recorder])
    assert len(recorder.losses) == 8
    assert sum(recorder.losses[-2:]) < sum(recorder.losses[:2])


def test_labels_at_another_address_are_the_same(photos: Path, tiny_source: SegmenterSource, tmp_path: Path) -> None:
    wanted: Any = ("coco-panoptic", "webdataset", "yolo")
    label(tiny_source, str(photos), options(tmp_path / "out", formats=wanted), HERE)
    there = dataclasses.replace(options(tmp_path, formats=wanted), to="memory://labels")
    filesystem = fsspec.filesystem("memory")
    try:
        assert label(tiny_source, str(photos), there, HERE).num_labelled == 5
        assert label(tiny_source, str(photos), there, HERE).num_labelled == 0
        found = {name.removeprefix("/labels/"): filesystem.cat_file(name) for name in filesystem.find("/labels")}
    finally:
        filesystem.rm("/labels", recursive=True)
    assert found == files(tmp_path / "out")


def test_two_kills_leave_no_trace(tiny_source: SegmenterSource, tmp_path: Path) -> None:
    outcome = run_campaign(Path(tiny_source.model), VOCABULARY, tmp_path, kills=2, images=12, with_ray=False)
    assert outcome.kills == {"driver": 2}
    assert outcome.passed, outcome


@pytest.mark.slow
def test_five_kills_of_anything_leave_no_trace(tiny_source: SegmenterSource, tmp_path: Path) -> None:
    outcome = run_campaign(Path(tiny_source.model), VOCABULARY, tmp_path, kills=5, images=60, with_ray=True)
    assert sum(outcome.kills.values()) == 5
    assert outcome.passed, outcome


def test_hostile_images_are_labelled_or_listed(tiny_source: SegmenterSource, tmp_path: Path) -> None:
    outcome = run_hostile(Path(tiny_source.model), VOCABULARY, tmp_path, images=len(KINDS))
    assert outcome.passed, outcome
    assert outcome.kinds["empty"] == (0, 1)
    assert outcome.kinds["bomb header"] == (0, 1)
    assert outcome.kinds["cmyk"] == (1, 0)


def test_a_users_mistake_that_a_worker_finds_is_one_line(
    tmp_path: Path, ray_session: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = SegmenterSource(model=str(tmp_path / "nowhere"))
    arguments = {"segmenter": nowhere, "options": options(tmp_path), "to": str(tmp_path)}
    parts = [{"number": 0, "first": 0, "images": []}]

    def run(_: Arguments) -> None:
        list(run_parts(LabelActor, arguments, parts, len(parts), PoolOptions(cpus=0.5)))

    monkeypatch.setattr(sys, "argv", ["job"])
    assert run_job(Arguments, run, "") == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"model folder {tmp_path / 'nowhere'} does not exist"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Of no use."""

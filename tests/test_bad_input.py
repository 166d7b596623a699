"""Every entry point, given what it cannot use: exit code 2, one line that names the thing, nothing half-written."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pipelines.shard
from frozenseg.cli import main as frozenseg_main
from frozenseg.data import CocoPanoptic, encode_id_map
from frozenseg.model.spec import write_spec
from pipelines import ray_session
from pipelines.shard import ShardOptions, shard_coco
from tests.model.tiny import tiny_spec

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Inputs:
    """folder: good and bad things to hand to an entry point; target: where results would go, nothing lies there."""

    folder: Path
    target: Path


def write_coco(folder: Path, change: Callable[[dict[str, Any]], None] = lambda content: None) -> None:
    """A data set of one image, with `change` applied to its JSON."""
    for name in ("images", "panoptic"):
        (folder / name).mkdir(parents=True)
    Image.fromarray(np.full((40, 60, 3), 90, dtype=np.uint8)).save(folder / "images" / "7.jpg")
    (folder / "panoptic" / "7.png").write_bytes(encode_id_map(np.ones((40, 60), dtype=np.int32)))
    content: dict[str, Any] = {
        "categories": [{"id": 3, "name": "red button", "isthing": 1}],
        "images": [{"id": 7, "file_name": "7.jpg", "height": 40, "width": 60}],
        "annotations": [
            {
                "image_id": 7,
                "file_name": "7.png",
                "segments_info": [{"id": 1, "category_id": 3, "area": 2400, "iscrowd": 0}],
            }
        ],
    }
    change(content)
    (folder / "panoptic.json").write_text(json.dumps(content))


def without_segments(content: dict[str, Any]) -> None:
    del content["annotations"][0]["segments_info"]


def with_an_unknown_category(content: dict[str, Any]) -> None:
    content["annotations"][0]["segments_info"][0]["category_id"] = 4711


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Inputs:
    def never(*_: object) -> bool:
        raise AssertionError("Ray was started before the input was looked at")

    folder = tmp_path / "in"
    write_coco(folder / "coco")
    write_coco(folder / "keyless", without_segments)
    write_coco(folder / "unknown", with_an_unknown_category)
    with monkeypatch.context() as patched:
        patched.setattr(pipelines.shard, "_run", lambda jobs: map(pipelines.shard.write_job, jobs))
        coco = folder / "coco"
        source = CocoPanoptic(coco / "panoptic.json", coco / "images", coco / "panoptic")
        shard_coco(source, ShardOptions(to=str(folder / "shards")))
    write_coco(folder / "broken")
    (folder / "broken" / "images" / "7.jpg").write_text("not an image")
    (folder / "model").mkdir()
    write_spec(tiny_spec(), folder / "model")
    for name, file in (("model", "config.json"), ("shards", "manifest.json")):
        content = json.loads((folder / name / file).read_text())
        (folder / f"old_{name}").mkdir()
        (folder / f"old_{name}" / file).write_text(json.dumps({**content, "format_version": 99}))
    (folder / "no_image").mkdir()
    (folder / "no_image" / "fake.jpg").write_text("not an image")
    (folder / "text.pth").write_text("not a checkpoint")
    (folder / "misspelt.toml").write_text('[model]\nencoders_of = "miniature"\n[optimizer]\nlearning_rat = 1e-4\n')
    (folder / "old.toml").write_text(f'[model]\nencoders_of = "{folder / "old_model"}"\n')
    monkeypatch.setattr(ray_session, "start", never)
    monkeypatch.chdir(tmp_path)
    return Inputs(folder=folder, target=tmp_path / "out")


def fill(words: str, inputs: Inputs) -> list[str]:
    """Words with {names} of inputs filled in; ~ stands for a space inside a word."""
    names = {path.name.replace(".", "_"): path for path in inputs.folder.iterdir()}
    names |= {"target": inputs.target, "gone": inputs.folder / "gone"}
    return [word.format(**names).replace("~", " ") for word in words.split()]


def assert_refused(code: int, stderr: str, says: str, inputs: Inputs) -> None:
    assert code == 2, stderr
    assert says.lower() in stderr.lower()
    assert "Traceback" not in stderr
    assert len(stderr.strip().splitlines()) == 1, stderr
    assert not inputs.target.exists()


SHARD, TRAIN = "shard --to {target} ", "train --output {target} "
EVALUATE, LABEL = "evaluate --to {target} ", "label --to {target} "
JOBS = [
    (SHARD + "--root {gone}", "gone"),
    (SHARD + "--root {keyless}", "segments_info"),
    (SHARD + "--root {unknown}", "4711"),
    (SHARD + "--root {coco} --shard-size 5XB", "5XB"),
    (SHARD + "--root {coco} --json images/7.jpg", "7.jpg"),
    (TRAIN + "--config {gone}", "gone"),
    (TRAIN + "--config {misspelt_toml}", "learning_rate"),
    (TRAIN + "--shards {gone}", "gone"),
    (TRAIN + "--shards {old_shards}", "version 99"),
    (TRAIN + "--config {old_toml} --shards {shards} --dry-run", "version 99"),
    (TRAIN + "--shards {shards} --ray.num-cpus 1", "CPUs are missing"),
    (EVALUATE + "--model {model} --data {gone}", "gone"),
    (EVALUATE + "--model {gone} --data {shards}", "gone"),
    (EVALUATE + "--model {old_model} --data {shards}", "version 99"),
    (EVALUATE + "--model {model} --data {old_shards}", "version 99"),
    (EVALUATE + "--model {model} --data {keyless}", "segments_info"),
    (EVALUATE + "--model {model} --data {unknown}", "4711"),
    (EVALUATE + "--model {model} --data {shards} --vocabulary ~;~", "vocabulary"),
    (EVALUATE + "--model {model} --data {shards} --dtype float12", "float12"),
    (LABEL + "--model {model} --images {gone} --vocabulary cat", "gone"),
    (LABEL + "--model {model} --images {model} --vocabulary cat", "expected images"),
    (LABEL + "--model {model} --images {no_image} --vocabulary ~;~", "vocabulary"),
    (LABEL + "--model {old_model} --images {no_image} --vocabulary cat", "version 99"),
    (LABEL + "--model {gone} --images {no_image} --vocabulary cat", "gone"),
    (LABEL + "--model {model} --images {no_image} --vocabulary cat --formats xml", "xml"),
    ("demo --to {text_pth}", "text.pth"),
    ("demo --to {target} --val-scenes 0", "--val-scenes"),
]


@pytest.mark.parametrize(("words", "says"), JOBS)
def test_entry_scripts(
    words: str, says: str, inputs: Inputs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script, *arguments = fill(words, inputs)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "ray_jobs" / f"{script}.py"), run_name="__main__")
    assert_refused(int(stop.value.code or 0), capsys.readouterr().err, says, inputs)


def test_a_data_set_of_broken_images_becomes_no_shard_set(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one case that is found only while the work is under way, in Ray's tasks: here in this process."""
    monkeypatch.setattr(ray_session, "start", lambda *_: False)
    monkeypatch.setattr(pipelines.shard, "_run", lambda jobs: map(pipelines.shard.write_job, jobs))
    monkeypatch.setattr(sys, "argv", ["shard", *fill("--to {target} --root {broken}", inputs)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "ray_jobs" / "shard.py"), run_name="__main__")
    assert stop.value.code == 2
    stderr = capsys.readouterr().err
    assert "1 of 1 samples cannot be used" in stderr
    assert "7: " in stderr
    assert not (inputs.target / "manifest.json").exists()


COMMANDS = [
    ("predict {gone} --model {model} --to {target} --vocabulary cat", "gone"),
    ("predict {coco}/images --model {old_model} --to {target} --vocabulary cat", "version 99"),
    ("predict {coco}/images --model {gone} --to {target} --vocabulary cat", "gone"),
    ("predict {no_image} --model miniature --to {target} --vocabulary water", "fake"),
    ("predict {coco}/images --model miniature --to {target} --vocabulary ~;~", "vocabulary"),
    ("score panoptic --truth {gone} --truth-dir {coco} --predictions {gone} --predictions-dir {coco}", "gone"),
    ("score panoptic --truth {keyless}/panoptic.json --truth-dir {keyless}/panoptic"
     " --predictions {coco}/panoptic.json --predictions-dir {coco}/panoptic", "segments_info"),
    ("score instances --truth {gone} --predictions {gone}", "gone"),
    ("score semantic --truth-dir {gone} --predictions-dir {gone} --vocabulary cat", "gone"),
    ("score semantic --truth-dir {coco}/panoptic --predictions-dir {coco}/panoptic --vocabulary ~;~", "vocabulary"),
    ("convert {gone} --to {target}", "gone"),
    ("convert {text_pth} --to {target}", "text.pth"),
    ("convert {text_pth} --to {target} --vocabulary ~;~", "vocabulary"),
    ("check-data coco-panoptic --root {gone}", "gone"),
    ("check-data coco-panoptik --root {coco}", "coco-panoptik"),
    ("make-miniature --to {coco}", "coco"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "says"), COMMANDS)
def test_the_command(words: str, says: str, inputs: Inputs, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(inputs.folder.rglob("*"))
    code = frozenseg_main(fill(words, inputs))
    assert_refused(code, capsys.readouterr().err, says, inputs)
    assert sorted(inputs.folder.rglob("*")) == before


@pytest.mark.parametrize(("name", "says"), [("gone", "gone"), ("old_shards", "version 99")])
def test_shards_check(
    name: str, says: str, inputs: Inputs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["shards", "check", str(inputs.folder / name)])
    monkeypatch.delitem(sys.modules, "shards.__main__", raising=False)
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("shards", run_name="__main__")
    assert_refused(int(stop.value.code or 0), capsys.readouterr().err, says, inputs)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("-m shards check {gone}", "gone"),
        (f"{ROOT}/ray_jobs/label.py --to {{target}} --model {{old_model}} --images {{no_image}} --vocabulary x", "99"),
    ],
)
def test_as_processes(words: str, says: str, inputs: Inputs) -> None:
    run = subprocess.run([sys.executable, *fill(words, inputs)], cwd=ROOT, capture_output=True, text=True)
    assert_refused(run.returncode, run.stderr, says, inputs)

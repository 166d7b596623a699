"""Average precision by the LVIS and Cityscapes protocols: properties, and the reference evaluators' own answers."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from frozenseg.cli import main
from frozenseg.data.coco_instances import CocoInstances
from frozenseg.data.dataset import ApProtocol, Frequency
from frozenseg.data.layouts import cityscapes_instances
from frozenseg.data.rle import encode_mask
from frozenseg.errors import UserInputError
from frozenseg.evaluation import CityscapesPrecision, InstanceMetric, LvisPrecision
from frozenseg.evaluation.instance_files import PrecisionMetric, score_instance_files
from frozenseg.types import Instances

from .random_scenes import VOCABULARY, scene

FREQUENCIES = (Frequency.RARE, Frequency.COMMON, Frequency.FREQUENT, Frequency.RARE, Frequency.COMMON)
SIZE = (48, 64)


def blob(rng: np.random.Generator) -> np.ndarray:
    """A random ellipse [h,w] bool, some of them under 100 pixels."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    cy, cx, ry, rx = rng.uniform(0, SIZE[0]), rng.uniform(0, SIZE[1]), rng.uniform(3, 16), rng.uniform(3, 16)
    return ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1


def rle_json(mask: np.ndarray) -> dict[str, Any]:
    rle = encode_mask(mask)
    return {"size": list(rle.size), "counts": rle.counts}


def lvis_files(folder: Path, seed: int, num_images: int = 6) -> tuple[Path, Path]:
    rng = np.random.default_rng(seed)
    categories = [{"id": k + 1, "name": f"c{k}", "frequency": FREQUENCIES[k % 5].value} for k in range(7)]
    images, annotations, results = [], [], []
    for number in range(1, num_images + 1):
        present = rng.choice(7, 3, replace=False) + 1
        others = [k for k in range(1, 8) if k not in present]
        images.append(
            {
                "id": number,
                "height": SIZE[0],
                "width": SIZE[1],
                "coco_url": f"http://x/val2017/{number}.jpg",
                "neg_category_ids": others[:2],
                "not_exhaustive_category_ids": [int(present[0])],
            }
        )
        for _ in range(int(rng.integers(1, 7))):
            mask, category = blob(rng), int(rng.choice(present))
            if not mask.any():
                continue
            area = float(mask.sum())
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category,
                    "area": area,
                    "segmentation": rle_json(mask),
                    "bbox": [0, 0, 1, 1],
                }
            )
            for _ in range(int(rng.integers(0, 3))):
                shifted = np.roll(mask, int(rng.integers(0, 6)), 1)
                guess = category if rng.random() < 0.7 else int(rng.integers(1, 8))
                results.append(
                    {
                        "image_id": number,
                        "category_id": guess,
                        "segmentation": rle_json(shifted),
                        "bbox": [0, 0, 1, 1],
                        "score": float(rng.random()),
                    }
                )
    truth = {"images": images, "categories": categories, "annotations": annotations}
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(results))
    return folder / "truth.json", folder / "results.json"


def cityscapes_files(folder: Path, seed: int, num_images: int = 5) -> Path:
    """gtFine/val and results/ as the scripts read them, and results.json for ours."""
    rng = np.random.default_rng(seed)
    detections = []
    (folder / "results").mkdir(parents=True)
    for number in range(num_images):
        stem = f"town_{number:06d}_000019"
        values = np.full(SIZE, rng.choice([0, 7, 8, 23]), dtype=np.uint16)
        values[:8] = 0
        lines = []
        for n in range(9):
            label, mask = int(rng.choice([24, 26, 26, 29, 33])), blob(rng)
            is_group = rng.random() < 0.2
            values[mask] = label if is_group else label * 1000 + n
            for _ in range(int(rng.integers(0, 3))):
                shifted = np.roll(mask, int(rng.integers(0, 5)), 1)
                guess = label if rng.random() < 0.8 else 26
                # Few scores, so that ties occur.
                score, name = float(rng.integers(1, 9)) / 8, f"{stem}_{len(lines)}.png"
                if guess == 29 or not shifted.any():
                    continue
                Image.fromarray(shifted.astype(np.uint8) * 255).save(folder / "results" / name)
                lines.append(f"{name} {guess} {score}")
                detections.append(
                    {"image_id": stem, "category_id": guess, "segmentation": rle_json(shifted), "score": score}
                )
        path = folder / f"gtFine/val/town/{stem}_gtFine_instanceIds.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(path)
        (folder / "results" / f"{stem}.txt").write_text("\n".join(lines) + "\n")
    (folder / "results.json").write_text(json.dumps(detections))
    return folder


def score_lvis(truth: Path, results: Path) -> PrecisionMetric:
    data = CocoInstances(truth, "", image_file=lambda *_: "", protocol=ApProtocol.LVIS)
    return score_instance_files(data, results)


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the reference evaluators, which don't go into our environment."""
    folder = tmp_path_factory.mktemp("oracles")
    pip = [shutil.which("uv"), "pip"] if shutil.which("uv") else [sys.executable, "-m", "pip"]
    packages = ["lvis==0.5.3", "cityscapesscripts==2.3.0", "pyquaternion==0.9.9"]
    command = [*pip, "install", "--quiet", "--no-deps", "--target", str(folder), *packages]
    if subprocess.run(command, capture_output=True, check=False).returncode:  # type: ignore[arg-type]
        pytest.skip("the reference evaluators cannot be installed here")
    return folder


def reference(oracle: Path, *arguments: str) -> dict[str, float]:
    script = Path(__file__).with_name("oracle_script.py")
    environment = os.environ | {"PYTHONPATH": str(oracle), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_lvis_equals_its_own_evaluator(tmp_path: Path, oracle: Path, seed: int) -> None:
    truth, results = lvis_files(tmp_path, seed)
    answer = reference(oracle, "lvis", str(truth), str(results))
    scores = score_lvis(truth, results).compute()
    names = {"AP": "ap", "AP50": "ap50", "AP75": "ap75", "APs": "ap_small", "APm": "ap_medium", "APl": "ap_large",
             "APr": "ap_rare", "APc": "ap_common", "APf": "ap_frequent", "AR@300": "ar300"}  # fmt: skip
    for theirs, ours in names.items():
        found = getattr(scores, ours)
        assert (-1 if math.isnan(found) else found) == pytest.approx(answer[theirs], abs=1e-12), theirs


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_cityscapes_equals_its_own_scripts(tmp_path: Path, oracle: Path, seed: int) -> None:
    folder = cityscapes_files(tmp_path, seed)
    answer = reference(oracle, "cityscapes", str(folder))
    scores = score_instance_files(cityscapes_instances(folder / "gtFine/val"), folder / "results.json").compute()
    assert scores.ap == pytest.approx(answer["ap"], abs=1e-12)
    assert scores.ap50 == pytest.approx(answer["ap50"], abs=1e-12)
    for name, value in scores.ap_per_category:
        if name in ("person", "car", "bicycle"):
            assert value == pytest.approx(answer[name], abs=1e-12, nan_ok=True), name


def metrics() -> list[InstanceMetric]:
    seen = [True, False, False, True, True]
    return [LvisPrecision(VOCABULARY, FREQUENCIES, seen), CityscapesPrecision(VOCABULARY, seen)]


def perfect(seed: int) -> Instances:
    _, truth = scene(seed, SIZE)
    things = [s for s in truth.segments if s.is_thing and not s.is_crowd]
    masks = [truth.segment_ids == s.id for s in things]
    return Instances(
        masks=torch.stack(masks) if masks else torch.zeros((0, *SIZE), dtype=torch.bool),
        category_ids=torch.tensor([s.category_id for s in things], dtype=torch.int64),
        scores=torch.full((len(things),), 0.5),
    )


@given(seeds=st.lists(st.integers(0, 10**6), min_size=1, max_size=4, unique=True))
@settings(max_examples=15, deadline=None)
def test_the_split_over_workers_changes_nothing(seeds: list[int]) -> None:
    for whole, left, right in zip(metrics(), metrics(), metrics(), strict=True):
        for number, seed in enumerate(seeds):
            # Another scene's objects as predictions: some right by chance, some wrong.
            prediction, truth = perfect(seed + number % 2), scene(seed, SIZE)[1]
            whole.update(prediction, truth, str(seed))
            (left if number % 2 else right).update(prediction, truth, str(seed))
        left.merge(right)
        assert repr(left.compute()) == repr(whole.compute())  # type: ignore[attr-defined]


def test_perfect_empty_and_absent() -> None:
    _, truth = scene(3, SIZE)
    for metric in metrics():
        metric.update(perfect(3), truth, "a")
        assert metric.compute().ap == pytest.approx(1.0)  # type: ignore[attr-defined]
    nothing = Instances(masks=torch.zeros((0, *SIZE), dtype=torch.bool), category_ids=torch.zeros(0, dtype=torch.int64),
                        scores=torch.zeros(0))  # fmt: skip
    for metric in metrics():
        assert math.isnan(metric.compute().ap)  # type: ignore[attr-defined]
        metric.update(nothing, truth, "a")
        assert metric.compute().ap == 0.0  # type: ignore[attr-defined]
    with pytest.raises(UserInputError, match="expected the frequency of each of 5 categories, found 1"):
        LvisPrecision(VOCABULARY, FREQUENCIES[:1])


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth, results = lvis_files(tmp_path, 5)
    command = ["score", "instances", "--truth", str(truth), "--predictions", str(results), "--protocol", "lvis"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ap"] == score_lvis(truth, results).compute().ap
    assert 0 < found["ap"] < 1
    assert main([*command, "--kind", "bbox"]) == 2
    assert "by the lvis protocol: expected masks (segm), found bbox" in capsys.readouterr().err
    folder = cityscapes_files(tmp_path / "city", 1)
    command = ["score", "instances", "--truth", str(folder / "gtFine/val"), "--protocol", "cityscapes"]
    assert main([*command, "--predictions", str(folder / "results.json"), "--json"]) == 0
    assert 0 < json.loads(capsys.readouterr().out)["ap50"] < 1

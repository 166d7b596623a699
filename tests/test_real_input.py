"""The main job on real photographs with the published architectures at full size, their weights random."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_BYTES = 12 * 10**9
LOUD = "RANDOM WEIGHTS"

pytestmark = [pytest.mark.slow, pytest.mark.shared, pytest.mark.timeout(1500)]


def tree_bytes(process: psutil.Process) -> int:
    """Memory of a process and all below it, pages that several share counted once (PSS)."""
    total = 0
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for member in family:
        try:
            total += member.memory_full_info().pss
        except psutil.Error:  # it ended between the two calls
            continue
    return total


class Stage:
    """Runs entry scripts one after the other; keeps the longest memory peak and what was printed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.peak = 0
        self.figures: list[str] = []

    def run(self, script: str, *arguments: str | Path) -> str:
        """Returns stdout and stderr together. Fails when the script does."""
        started = time.monotonic()
        log = self.folder / f"{script}.log"
        command = [sys.executable, f"ray_jobs/{script}.py", *map(str, arguments)]
        environment = {**os.environ, "DS_ACCELERATOR": "cpu", "PYTHONUNBUFFERED": "1"}
        with log.open("w") as output:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True
            )
            watched, peak = psutil.Process(process.pid), 0
            while process.poll() is None:
                peak = max(peak, tree_bytes(watched))
                time.sleep(2.0)  # reading the maps of a dozen processes takes a while itself
        text = log.read_text()
        assert process.returncode == 0, f"{script}: {text[-4000:]}"
        self.peak = max(self.peak, peak)
        self.figures.append(f"{script}: {time.monotonic() - started:.0f} s, {peak / 2**30:.1f} GiB")
        return text


def test_the_main_job_on_real_photographs(shared_dir: Path, tmp_path: Path) -> None:
    """Fails when any stage does, is too slow or too large, or writes a result that hides its random weights."""
    samples = shared_dir / "samples" / "coco_panoptic"
    config = ROOT / "configs" / "coco-convnext-large-smoke.toml"
    stage, started = Stage(tmp_path), time.monotonic()
    shards, run, model = tmp_path / "shards", tmp_path / "run", tmp_path / "run" / "model"

    stage.run("shard", "--root", samples, "--to", shards)
    manifest = json.loads((shards / "manifest.json").read_text())
    assert sum(len(file["sample_ids"]) for file in manifest["files"]) == 2

    text = stage.run("train", "--config", config, "--shards", shards, "--output", run, "--random-encoders")
    assert LOUD in text
    card = json.loads((run / "run.json").read_text())
    assert LOUD in card["notice"]
    assert card["config"]["model"]["decoder"]["num_queries"] == 250
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2]
    assert LOUD in (model / "MODEL_CARD.md").read_text()

    evaluation = tmp_path / "evaluation"
    text = stage.run(
        "evaluate", "--model", model, "--data", shards, "--to", evaluation, "--limit", "1", "--random-encoders"
    )
    assert LOUD in text
    metrics = json.loads((evaluation / "metrics.json").read_text())
    assert metrics["num_images"] == 1
    assert LOUD in metrics["notice"]
    assert LOUD in (evaluation / "card.md").read_text()

    labels = tmp_path / "labels"
    image = samples / "images" / "000000439180.jpg"
    arguments = ("--images", image, "--vocabulary", "person; bus; road(stuff)", "--model", model, "--to", labels)
    text = stage.run("label", *arguments, "--random-encoders")
    assert LOUD in text
    assert LOUD in json.loads((labels / "manifest.json").read_text())["notice"]
    result = json.loads((labels / "coco-panoptic" / "panoptic.json").read_text())
    assert LOUD in result["info"]["notice"]
    assert len(result["images"]) == 1

    print(f"{time.monotonic() - started:.0f} s in all; {'; '.join(stage.figures)}")
    assert stage.peak < MAX_BYTES, f"{stage.peak / 2**30:.1f} GiB: {stage.figures}"

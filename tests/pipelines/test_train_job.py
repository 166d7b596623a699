"""Training on a real cluster: submitted to a head, on two nodes of which one dies, on nodes that come on demand."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from frozenseg import load
from frozenseg.config import to_toml
from pipelines.train_config import TrainConfig
from shards import ShardReader
from tests.campaigns.train_kills import losses, whole_epochs
from tests.pipelines.local_head import RAY, Head, NodeGroup, local_head, nodes
from tests.pipelines.small_run import CHECKOUT, NUM_SCENES, make_shards, small_config

QUIET = {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("train-job"))


def up_to(config: TrainConfig, step: int) -> TrainConfig:
    return dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, num_steps=step))


def submit(head: Head, *entry_point: str) -> str:
    """`ray job submit` from the checkout, to its end. Returns the output."""
    command = [RAY, "job", "submit", "--address", head.dashboard, "--working-dir", ".", "--", *entry_point]
    done = subprocess.run(command, cwd=CHECKOUT, env=head.environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_submitted_jobs_train_go_on_as_an_executable_evaluate_and_label(shards: Path, tmp_path: Path) -> None:
    """The README's way on a cluster, with addresses relative to the storage: what the job's own folder held would be
    thrown away."""
    config = tmp_path / "config.toml"
    config.write_text(to_toml(small_config(Path("shards-train"), Path("run"), "torch")))
    storage = shards.parent
    with local_head({"FROZENSEG_STORAGE": str(storage)}) as head:
        first = submit(head, "python", "ray_jobs/train.py", "--config", str(config), "--steps", "3")
        assert f"model: {storage}/run/model" in first
        second = submit(head, "ray_jobs/train.py", "--config", str(config), "--steps", "5")
        assert "going on from step 3" in second
        scores = submit(
            head, "python", "ray_jobs/evaluate.py", "--model", "run/model", "--data", "shards-train", "--to", "scores"
        )
        assert "# Evaluation of model" in scores
        labels = submit(
            head, "ray_jobs/label.py", "--model", "run/model", "--images", "shards-train", "--to", "labels",
            "--vocabulary", "red button; water(stuff)", "--images-per-part", "4",
        )  # fmt: skip
        assert f"{storage}/labels: {NUM_SCENES} images, {NUM_SCENES} of them labelled now, 0 could not" in labels
    assert len(losses(storage / "run")) == 5
    assert load(storage / "run" / "model").model.spec.name == "miniature"
    assert json.loads((storage / "scores" / "metrics.json").read_text())["num_images"] == NUM_SCENES
    labelled = json.loads((storage / "labels" / "coco-panoptic" / "panoptic.json").read_text())
    assert len({image["id"] for image in labelled["images"]}) == NUM_SCENES


@pytest.mark.slow
def test_nodes_come_when_the_job_asks_and_go_after_it(shards: Path, tmp_path: Path) -> None:
    """A head that runs nothing and two node groups that scale from 0, as in cluster.yaml. GPUs are Ray's count only."""
    small = small_config(Path("shards-train"), Path("on-demand"), "torch")
    workers = dataclasses.replace(small.workers, num_workers=2, cpus=1.0, resource="trainer")
    features = dataclasses.replace(
        small.features, actor_cpus=1.0, actor_gpus=1.0, actor_resource="encoder", max_actors=2, max_readers=1
    )
    schedule = dataclasses.replace(small.schedule, num_steps=40)
    config = tmp_path / "config.toml"
    config.write_text(to_toml(dataclasses.replace(small, workers=workers, features=features, schedule=schedule)))
    memory = {"object_store_memory": 150e6}
    groups = (
        NodeGroup(name="trainer", most=1, resources={"CPU": 3, "trainer": 2, **memory}),
        NodeGroup(name="encoder", most=2, resources={"CPU": 2, "GPU": 1, "encoder": 1, **memory}),
    )
    storage = shards.parent
    with local_head({"FROZENSEG_STORAGE": str(storage), "FROZENSEG_AUTOSCALES": "1"}, groups) as head:
        output = submit(head, "python", "ray_jobs/train.py", "--config", str(config))
        assert f"model: {storage}/on-demand/model" in output
        came = [node.resources for node in nodes(head)]
        assert sum(resources.get("trainer", 0) for resources in came) == 2, "one trainer node"
        # One that was idle for a while may have gone and come again.
        assert sum(resources.get("encoder", 0) for resources in came) >= 2, "the pool grew to both encoder nodes"
        deadline = time.monotonic() + 120
        while sum(node.is_alive for node in nodes(head)) > 1:
            assert time.monotonic() < deadline, "idle nodes stayed"
            time.sleep(1)
    assert len(losses(storage / "on-demand")) == 40
    assert whole_epochs(storage / "on-demand", NUM_SCENES) >= 13


@pytest.mark.slow
def test_without_a_config_the_miniature_is_planned_on_a_world_of_its_own(tmp_path: Path) -> None:
    """As an executable, as `ray job submit -- ray_jobs/train.py` starts it."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | QUIET | {"PATH": path, "FROZENSEG_STORAGE": str(tmp_path)}
    command = ["ray_jobs/train.py", "--dry-run", "--images-per-second", "8"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "no --config: training the miniature (miniature.toml)" in done.stdout
    assert "miniature: 400 samples of" in done.stdout
    assert "time: 0.1 hours for the whole run at 8.0 images/s, as given" in done.stdout
    assert len(ShardReader(tmp_path / "runs" / "miniature" / "shards")) == 400


@pytest.mark.slow
def test_a_lost_node_costs_the_steps_since_the_last_checkpoint(shards: Path, tmp_path: Path) -> None:
    """Two workers on two nodes: one node is killed, and the elastic group goes on as one worker."""
    config = tmp_path / "config.toml"
    small = small_config(shards, tmp_path / "run", "torch")
    workers = dataclasses.replace(small.workers, num_workers=2, min_workers=1, cpus=3.0)
    config.write_text(to_toml(dataclasses.replace(small, workers=workers)))
    script = Path(__file__).with_name("two_nodes_script.py")
    command = [sys.executable, str(script), str(config), str(tmp_path / "run")]
    # Ray's folder must be short: the paths of unix sockets below it may have 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="fs-nodes-", ignore_cleanup_errors=True) as folder:
        environment = os.environ | QUIET | {"RAY_TMPDIR": folder}
        done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "node killed" in done.stdout
    assert len(losses(tmp_path / "run")) == 10
    assert whole_epochs(tmp_path / "run", NUM_SCENES) == 3
    second = (tmp_path / "run" / "samples" / "rank-1.jsonl").read_text().splitlines()
    assert 0 < len(second) < 10

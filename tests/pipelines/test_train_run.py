"""Training on Ray Train: lost workers and encoders leave no trace, and a run goes on with another number of workers."""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.train import describe, prepare, train_run
from pipelines.train_config import TrainConfig
from tests.campaigns.train_kills import KINDS, kill_one, losses, run_campaign, wait_for_steps, whole_epochs
from tests.pipelines.small_run import ALONE, NUM_SCENES, make_shards, small_config, train_here


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("train-run"))


def up_to(config: TrainConfig, step: int) -> TrainConfig:
    return dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, num_steps=step))


def train(config: TrainConfig) -> None:
    train_run(prepare(config))


@pytest.fixture
def killer(tmp_path: Path) -> Iterator[threading.Thread]:
    """Kills an encoder after the first step of the run in `broken`, a train worker a few steps later."""
    import os

    metrics, is_over, choose = tmp_path / "broken" / "metrics.jsonl", threading.Event(), random.Random(0)

    def kill() -> None:
        if wait_for_steps(metrics, 0, 1, is_over.is_set):
            kill_one(os.getpid(), "encoder", choose)
        if wait_for_steps(metrics, 0, 5, is_over.is_set):
            kill_one(os.getpid(), "worker", choose)

    thread = threading.Thread(target=kill)
    yield thread
    is_over.set()
    thread.join()


def test_a_killed_encoder_and_a_killed_worker_leave_no_trace(
    shards: Path, tmp_path: Path, ray_session: None, killer: threading.Thread, capfd: pytest.CaptureFixture[str]
) -> None:
    """The unbroken run is made in this process, without Ray: the stream must not show in the losses either."""
    config = small_config(shards, tmp_path / "unbroken", "torch", workers=ALONE)
    train_here(config, 10)
    killer.start()
    train(dataclasses.replace(config, output=str(tmp_path / "broken")))
    killer.join()
    assert "train: lost worker 0" in capfd.readouterr().err
    assert losses(tmp_path / "broken") == losses(tmp_path / "unbroken")
    assert whole_epochs(tmp_path / "broken", NUM_SCENES) == whole_epochs(tmp_path / "unbroken", NUM_SCENES) == 3


@pytest.mark.slow
def test_a_run_goes_on_with_fewer_and_with_more_workers(shards: Path, tmp_path: Path, ray_session: None) -> None:
    config = small_config(shards, tmp_path / "run", "torch")
    train(up_to(config, 4))
    train(up_to(dataclasses.replace(config, workers=ALONE), 7))
    train(config)
    assert len(losses(tmp_path / "run")) == 10
    assert whole_epochs(tmp_path / "run", NUM_SCENES) == 3
    assert "images/s, as the last steps of this run did" in describe(prepare(config))


@pytest.mark.slow
def test_five_kills_of_every_kind_leave_no_trace(tmp_path: Path) -> None:
    outcome = run_campaign(tmp_path / "campaign", 5, 0, "torch")
    assert set(outcome.killed) == set(KINDS)
    assert sum(outcome.killed.values()) == 5
    assert outcome.num_epochs == 9  # the last of the ten is not counted
    assert outcome.broken == outcome.unbroken

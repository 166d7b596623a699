"""What a train worker does beside the steps, without Ray: evaluation, selection, trackers, smaller groups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from frozenseg import load
from frozenseg.errors import UserInputError
from pipelines.trackers import WandbWriter
from pipelines.train import newest_state, prepare, write_model
from pipelines.train_config import TrackingSection, TrainConfig, ValidationSection
from pipelines.train_worker import checkpoint_store
from tests.pipelines.small_run import ALONE, make_shards, small_config, train_here


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("train-worker"))


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("train-worker"), "val", 2)


def alone(shards: Path, output: Path, **changes: Any) -> TrainConfig:
    return small_config(shards, output, "torch", workers=ALONE, **changes)


def test_every_checkpoint_is_evaluated_and_the_best_one_is_the_model(shards: Path, split: Path, tmp_path: Path) -> None:
    plain = train_here(alone(shards, tmp_path / "plain"), 4)
    validation = ValidationSection(shards=str(split), limit=2, pictures=1, select="mIoU")
    run = train_here(alone(shards, tmp_path / "run", validation=validation), 4)
    store = checkpoint_store(run.config)
    scores = {step: store.load(step).scores for step in store.steps()}
    assert all({"PQ", "mIoU", "mIoU-seen", "mIoU-unseen"} <= set(found) for found in scores.values())
    best = store.best()
    assert best is not None
    assert best.scores["mIoU"] == max(found["mIoU"] for found in scores.values())
    write_model(run, store)
    note = (tmp_path / "run" / "model" / "MODEL_CARD.md").read_text()
    assert f"Trained for {best.loop.step} steps" in note
    assert "best checkpoint by mIoU" in note
    # The evaluation must not change the training.
    first, second = checkpoint_store(plain.config).newest(), store.newest()
    assert first is not None
    assert second is not None
    assert all(torch.equal(value, second.engine.parameters[name]) for name, value in first.engine.parameters.items())
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    assert [event.step for event in events.Scalars("validation/mIoU")] == [2, 4]
    (tag,) = events.Tags()["images"]
    assert tag.startswith("validation/")
    assert [event.step for event in events.Images(tag)] == [2, 4]


def test_without_select_the_model_is_the_last_step(shards: Path, tmp_path: Path) -> None:
    run = train_here(alone(shards, tmp_path / "run"), 3)
    store = checkpoint_store(run.config)
    assert newest_state(store).step == 3
    folder = write_model(run, store)
    newest = store.newest()
    assert newest is not None
    written = load(folder).model.decoder.state_dict()
    assert all(torch.equal(written[name], value) for name, value in newest.engine.parameters.items())
    assert "Trained for 3 steps" in (tmp_path / "run" / "model" / "MODEL_CARD.md").read_text()


def test_a_score_that_the_split_has_not_is_refused(shards: Path, tmp_path: Path) -> None:
    validation = ValidationSection(shards=str(shards), limit=1, pictures=0, select="PQ-unseen")
    with pytest.raises(UserInputError, match=r"select = 'PQ-unseen': .* have no such category; measured: PQ, "):
        train_here(alone(shards, tmp_path / "run", validation=validation), 2)


def test_lines_of_a_larger_group_before_are_cut_to_the_checkpoint(shards: Path, tmp_path: Path) -> None:
    config = alone(shards, tmp_path / "run")
    train_here(config, 2)
    other = tmp_path / "run" / "samples" / "rank-1.jsonl"
    other.write_text("".join(json.dumps({"step": step, "epoch": 0, "image_ids": []}) + "\n" for step in (1, 2, 3)))
    train_here(config, 4)
    assert [json.loads(line)["step"] for line in other.read_text().splitlines()] == [1, 2]


def test_a_tracker_that_is_not_installed_is_named(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(UserInputError, match=r"tracking\.wandb is set.*frozenseg\[tracking\]"):
        prepare(alone(shards, tmp_path / "run", tracking=TrackingSection(wandb="offline")))


def test_mlflow_gets_scores_and_pictures_in_one_run(
    shards: Path, split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a folder is enough here; MLflow itself wants a database
    address = (tmp_path / "mlflow").as_uri()
    config = alone(
        shards,
        tmp_path / "run",
        tracking=TrackingSection(mlflow=address),
        validation=ValidationSection(shards=str(split), limit=1, pictures=1),
    )
    train_here(config, 2)
    train_here(config, 4)
    client = mlflow.MlflowClient(tracking_uri=address)
    experiment = client.get_experiment_by_name(config.name)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert [m.step for m in client.get_metric_history(run.info.run_id, "validation/mIoU")] == [2, 4]
    pictures = [file.path for file in client.list_artifacts(run.info.run_id, "validation")]
    assert sorted(Path(path).stem.rpartition("-")[2] for path in pictures) == ["00000002", "00000004"]


def test_a_run_of_wandb_goes_on_under_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    for step in (1, 2):
        writer = WandbWriter("offline", "small", tmp_path)
        writer.add_scalar("loss", 0.5, step)
        writer.add_image("validation/picture", np.zeros((8, 8, 3), dtype=np.uint8), step, dataformats="HWC")
        writer.close()
    (run_id,) = {path.stem.removeprefix("run-") for path in tmp_path.glob("wandb/offline-run-*/run-*.wandb")}
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"wandb": run_id}
    assert len(list(tmp_path.glob("wandb/offline-run-*/files/media/images/validation/picture_*.png"))) == 2

"""A training run small enough to be started, killed and started again in a test: a world of scenes and its config."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from frozenseg.config import load_toml
from frozenseg.data import JitterConfig
from pipelines import columns as c
from pipelines.encoder_pool import EncoderActor
from pipelines.miniature_shards import write_miniature_shards
from pipelines.stream import actor_arguments, load_rows
from pipelines.train import Run, beginnings, prepare, rows_left, worker_plan
from pipelines.train_config import CheckpointsSection, TrainConfig, WorkersSection
from pipelines.train_worker import WorkerPlan, streamed, train_on

CHECKOUT = Path(__file__).resolve().parents[2]
NUM_SCENES = 10
"""Not a multiple of the batch: every epoch ends with rows that only fill up."""
ALONE = WorkersSection(num_workers=1, cpus=0.5, gpus=0)


def make_shards(folder: Path, split: Literal["train", "val"] = "train", num_scenes: int = NUM_SCENES) -> Path:
    """A shard set of the miniature world. Returns its folder."""
    shards = folder / f"shards-{split}"
    write_miniature_shards(str(shards), split, num_scenes, scenes_per_shard=4)
    return shards


def small_config(shards: Path, output: Path, engine: Literal["torch", "deepspeed"], **changes: Any) -> TrainConfig:
    """The miniature's config with a smaller decoder and smaller pictures; a checkpoint every second step."""
    base = load_toml(CHECKOUT / "configs" / "miniature.toml", TrainConfig)
    decoder = dataclasses.replace(
        base.model.decoder, hidden_dim=32, mask_dim=32, num_queries=8, num_layers=3, feedforward_dim=32,
        pixel_decoder_feedforward_dim=32, feature_injector_layers=(0,),
    )  # fmt: skip
    config = dataclasses.replace(
        base,
        shards=str(shards),
        output=str(output),
        batch_size=4,
        model=dataclasses.replace(base.model, decoder=decoder),
        schedule=dataclasses.replace(base.schedule, num_steps=10, milestones=(6,)),
        loss=dataclasses.replace(base.loss, num_points=64),
        augmentation=JitterConfig(crop_size=64, min_zoom=0.8, max_zoom=1.6),
        engine=dataclasses.replace(base.engine, kind=engine),
        features=dataclasses.replace(base.features, encoder_batch=2),
        checkpoints=CheckpointsSection(every=2, keep_last=2),
    )
    return dataclasses.replace(config, **changes)


class LocalStream:
    """The stages of the feature stream one after the other in this process."""

    def __init__(self, plan: WorkerPlan, sample_ids: tuple[str, ...]) -> None:
        self._config = plan.stream
        self._rows = rows_left(plan, sample_ids)

    def iter_batches(self, batch_size: int, **_: object) -> Iterator[c.Columns]:
        actor = EncoderActor(**actor_arguments(self._config))
        for start in range(0, len(self._rows), batch_size):
            yield actor(load_rows({"id": np.arange(start, start + batch_size)}, self._rows, self._config))


def train_here(config: TrainConfig, last_step: int) -> Run:
    """The run up to a step, in this process alone. What Ray Train's worker function does with a local stream."""
    run = prepare(config)
    plan = worker_plan(run, beginnings(run), last_step)
    batches = streamed(LocalStream(plan, run.sample_ids), plan.stream, config.micro_batch_size())
    reached = train_on(plan, batches)
    assert reached.step == last_step
    return run

"""Drives a training run: plan, Ray Train fits until the last step is reached, model folder.

The same command starts a run and goes on with it: everything that must survive is in the run's checkpoints.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from frozenseg.config import to_json_dict
from frozenseg.errors import FrozenSegError, UserInputError
from frozenseg.inference.loading import model_folder
from frozenseg.memory import return_free_memory
from frozenseg.model import FrozenSeg, ModelSpec, build_model, load_model, save_model
from frozenseg.training import CheckpointStore, LoopState
from frozenseg.training.hooks import write_line
from frozenseg.types import TextEmbeddings
from pipelines.ray_session import Need
from pipelines.stream import Rows, epoch_rows, packed
from pipelines.trackers import check_installed
from pipelines.train_config import TrainConfig, WorkersSection
from pipelines.train_fit import RunLostError, fit
from pipelines.train_worker import WorkerPlan, checkpoint_store
from shards import ShardReader, Storage

MAX_ROWS_PER_FIT = 400_000
"""Rows that one fit plans ahead. A longer run is several fits, each going on from the checkpoint of the one before."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """What a run needs besides its config, read once. The encoders are built when they are needed and let go again:
    the workers have their own, and while they train, a copy here would only take memory."""

    config: TrainConfig
    spec: ModelSpec
    sample_ids: tuple[str, ...]
    num_trained: int
    num_frozen: int

    def build(self) -> FrozenSeg:
        """The model before its first step."""
        return _build(self.config, self.spec)


def prepare(config: TrainConfig) -> Run:
    """Makes the config's paths absolute, reads the shard set's manifest and tries whether the model can be built.

    Raises:
        UserInputError: a missing shard set, encoders that cannot be had, or a decoder that doesn't fit them.
    """
    config = config.anchored()
    manifest = ShardReader(config.shards).manifest
    sample_ids = tuple(image_id for file in manifest.files for image_id in file.sample_ids)
    if not sample_ids:
        raise UserInputError(f"the shard set {config.shards} holds no sample")
    check_installed(config)
    model = _build(config, config.model_spec(manifest.vocabulary))
    num_trained = sum(p.numel() for p in model.decoder.parameters() if p.requires_grad)
    num_frozen = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in model.decoder.parameters())
    return Run(config=config, spec=model.spec, sample_ids=sample_ids, num_trained=num_trained, num_frozen=num_frozen)


def _build(config: TrainConfig, spec: ModelSpec) -> FrozenSeg:
    model = build_model(
        spec, folder=config.encoders_folder(), weights=config.weights, decoder_seed=config.model.init_seed
    )
    if config.model.start_from is not None:
        model.decoder.load_state_dict(load_model(model_folder(config.model.start_from)).decoder.state_dict())
    if config.validation.shards is not None and not len(ShardReader(config.validation.shards)):
        raise UserInputError(f"validation.shards: the shard set {config.validation.shards} holds no sample")
    return model


def needs(config: TrainConfig) -> list[Need]:
    """What the run holds for its whole time, for the check before it starts."""
    workers, features = config.workers, config.features
    num_workers = workers.min_workers or workers.num_workers
    wanted = [
        Need(name="train worker", count=num_workers, cpus=workers.cpus, gpus=workers.gpus, resource=workers.resource)
    ]
    if features.mode != "inline":
        pool = Need(
            name="encoder actor",
            count=features.min_actors,
            cpus=features.actor_cpus,
            gpus=features.actor_gpus,
            resource=features.actor_resource,
        )
        wanted.append(pool)
    return [*wanted, Need(name="reading task")]


def describe(run: Run, images_per_second: float | None = None) -> str:
    """The plan in words, for `--dry-run`. images_per_second: over all workers, for the estimate of the time; None for
    what this run's own last steps did, if there are any."""
    config = run.config
    steps_per_epoch = -(-len(run.sample_ids) // config.batch_size)
    features, workers = config.features, config.workers
    bytes_state = run.num_trained * 4 * 4
    lines = [
        f"{config.name}: {len(run.sample_ids):,} samples of {config.shards}",
        f"parameters: {run.num_trained:,} trained, {run.num_frozen:,} frozen",
        f"steps: {config.schedule.num_steps:,} of {config.batch_size} images, {steps_per_epoch:,} an epoch, "
        f"{config.schedule.num_steps / steps_per_epoch:.1f} epochs",
        f"workers: {_group(workers)} x {config.micro_batch_size()} images x {workers.micro_batches} micro-batches, "
        f"{config.engine.kind}" + (f", ZeRO {config.engine.zero_stage}" if config.engine.kind == "deepspeed" else ""),
        f"memory: {bytes_state / 2**20:,.0f} MiB of weights, gradients and moments in all; "
        f"{feature_bytes(config, run.spec) / 2**20:.1f} MiB of features an image, {features.mode}, {features.codec}",
        _time_line(config, images_per_second),
        f"output: {config.output}, checkpoints every {config.checkpoints.every:,} steps",
    ]
    if config.validation.shards is not None:
        taken = f"the best by {config.validation.select}" if config.validation.select else "the last one"
        lines.append(f"validation: {config.validation.limit} images of {config.validation.shards}; model: {taken}")
    if run.spec.notice:
        lines.append(run.spec.notice)
    return "\n".join(lines)


def _group(workers: WorkersSection) -> str:
    return f"{workers.min_workers} to {workers.num_workers}" if workers.min_workers else str(workers.num_workers)


def _time_line(config: TrainConfig, images_per_second: float | None) -> str:
    """Hours of the whole run at a rate that was given, or that the last hundred steps of this run had."""
    origin = "as given"
    if images_per_second is None:
        images_per_second, origin = measured_rate(config), "as the last steps of this run did"
    if not images_per_second:
        return "time: not known before some steps were made (or give --images-per-second)"
    hours = config.schedule.num_steps * config.batch_size / images_per_second / 3600
    return f"time: {hours:,.1f} hours for the whole run at {images_per_second:,.1f} images/s, {origin}"


def measured_rate(config: TrainConfig, num_steps: int = 100) -> float | None:
    """Images per second of the last steps that metrics.jsonl tells of, None when it tells of none."""
    path = Path(config.output) / "metrics.jsonl"
    if not path.exists():
        return None
    lines = path.read_text(encoding="utf-8").splitlines()[-num_steps:]
    seconds = sum(float(json.loads(line)["seconds"]) for line in lines)
    return len(lines) * config.batch_size / seconds if seconds else None


def feature_bytes(config: TrainConfig, spec: ModelSpec) -> float:
    """Bytes that one image's features take on their way."""
    side = config.augmentation.crop_size
    per_value = {"float32": 4, "bfloat16": 2, "uint8": 1}[config.features.codec]
    cells = sum(
        channels * (side // stride) ** 2
        for channels, stride in zip(spec.decoder.clip_channels, (4, 8, 16, 32), strict=True)
    )
    return float(per_value * (cells + spec.decoder.sam_channels * 64 * 64))


def train_run(run: Run) -> Path:
    """Trains to the last step, wherever the run is, and writes the model folder. Returns that folder."""
    config = run.config
    store = checkpoint_store(config)
    given = beginnings(run)
    # What a reader of the run's folder must know, random weights included.
    card = {"plan": describe(run).splitlines(), "notice": run.spec.notice, "config": to_json_dict(config)}
    Storage(config.output).write_bytes("run.json", (json.dumps(card, indent=1) + "\n").encode())
    num_failures, failed_at, reached = 0, -1, -1
    while (state := newest_state(store)).step < config.schedule.num_steps:
        if state.step == reached:
            raise FrozenSegError(
                f"the workers ended, but no checkpoint past step {reached} lies at {config.checkpoint_address}"
            )
        if state.step:
            write_line(f"train: going on from step {state.step}")
        last_step = min(config.schedule.num_steps, state.step + max(1, MAX_ROWS_PER_FIT // config.batch_size))
        plan = worker_plan(run, given, last_step)
        loss = fit(plan, functools.partial(rows_left, plan, run.sample_ids))
        if loss is None:
            reached = state.step
            continue
        num_failures = num_failures + 1 if failed_at == state.step else 1
        failed_at = state.step
        write_line(f"train: {loss}")
        if num_failures > config.workers.max_failures:
            raise RunLostError(f"{num_failures} times in a row since step {state.step}, the last time: {loss}")
    return write_model(run, store)


def newest_state(store: CheckpointStore) -> LoopState:
    newest = store.newest()
    return newest.loop if newest is not None else LoopState()


def write_model(run: Run, store: CheckpointStore) -> Path:
    """The model folder: of the last step, or of the best checkpoint by `validation.select`. Returns it."""
    select = run.config.validation.select
    chosen = store.newest() if select is None else store.best()
    assert chosen is not None
    notes = f"Trained for {chosen.loop.step} steps on {run.config.shards}."
    if select is not None:
        notes += f" The best checkpoint by {select} ({chosen.scores[select]:.4f}) on {run.config.validation.shards}."
        write_line(f"train: the model is that of step {chosen.loop.step}, {select} {100 * chosen.scores[select]:.1f}")
    model = run.build()
    model.decoder.load_state_dict(chosen.engine.parameters)
    folder = Path(run.config.output) / "model"
    save_model(model, folder, notes=notes)
    return folder


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Beginnings:
    """What a model must be built for before the workers start, the same on every start.

    Fields: text: rows of the training vocabulary; decoder: weights of another model to train on, empty for fresh ones.
    """

    text: TextEmbeddings
    decoder: dict[str, Tensor]


def beginnings(run: Run) -> Beginnings:
    """Builds the model, takes what is needed, and lets it go."""
    model = run.build()
    assert run.spec.training_vocabulary is not None
    weights = dict(model.decoder.state_dict()) if run.config.model.start_from is not None else {}
    given = Beginnings(text=model.text(run.spec.training_vocabulary), decoder=weights)
    del model
    return_free_memory()
    return given


def worker_plan(run: Run, given: Beginnings, last_step: int) -> WorkerPlan:
    """What the workers need to train up to a step."""
    return WorkerPlan(
        config=run.config,
        stream=run.config.stream_config(run.spec),
        spec=run.spec,
        text=given.text,
        num_samples=len(run.sample_ids),
        last_step=last_step,
        decoder=given.decoder,
    )


def rows_left(plan: WorkerPlan, sample_ids: tuple[str, ...]) -> Rows:
    """Rows from the newest checkpoint to `plan.last_step`, as many as the steps left take, laid out for the blocks."""
    state = newest_state(checkpoint_store(plan.config))
    batch = plan.config.batch_size
    wanted = (plan.last_step - state.step) * batch
    epoch, parts, found = state.epoch, [], 0
    while found < wanted:
        part = epoch_rows(sample_ids, plan.config.seed, [epoch], batch, state.consumed)
        parts.append(torch.from_numpy(part))
        found, epoch = found + len(part), epoch + 1
    rows: Rows = torch.cat(parts)[:wanted].numpy()
    return rows if plan.config.workers.min_workers is not None else packed(rows, plan.stream)

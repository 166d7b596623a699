"""Drives a training run: plan, Ray Train fits until the last step is reached, model folder.

The same command starts a run and goes on with it: everything that must survive is in the run's checkpoints.
"""

from __future__ import annotations

import ctypes
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from frozenseg.config import to_json_dict
from frozenseg.errors import FrozenSegError, UserInputError
from frozenseg.model import FrozenSeg, ModelSpec, build_model, load_model, save_model
from frozenseg.training import LoopState
from frozenseg.training.hooks import write_line
from frozenseg.types import TextEmbeddings
from pipelines.ray_session import Need
from pipelines.stream import Rows, epoch_rows, execution_options, feature_stream
from pipelines.train_config import TrainConfig
from pipelines.train_worker import DATASET, WorkerPlan, checkpoint_store, train
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
    model = _build(config, config.model_spec(manifest.vocabulary))
    num_trained = sum(p.numel() for p in model.decoder.parameters() if p.requires_grad)
    num_frozen = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in model.decoder.parameters())
    return Run(config=config, spec=model.spec, sample_ids=sample_ids, num_trained=num_trained, num_frozen=num_frozen)


def _build(config: TrainConfig, spec: ModelSpec) -> FrozenSeg:
    model = build_model(
        spec, folder=config.encoders_folder(), weights=config.weights, decoder_seed=config.model.init_seed
    )
    if config.model.start_from is not None:
        model.decoder.load_state_dict(load_model(config.model.start_from).decoder.state_dict())
    return model


def needs(config: TrainConfig) -> list[Need]:
    """What the run holds for its whole time, for the check before it starts."""
    workers, features = config.workers, config.features
    wanted = [Need(name="train worker", count=workers.num_workers, cpus=workers.cpus, gpus=workers.gpus)]
    if features.mode != "inline":
        pool = Need(name="encoder actor", count=features.min_actors, cpus=features.actor_cpus, gpus=features.actor_gpus)
        wanted.append(pool)
    return [*wanted, Need(name="reading task")]


def describe(run: Run) -> str:
    """The plan in words, for `--dry-run`."""
    config = run.config
    steps_per_epoch = -(-len(run.sample_ids) // config.batch_size)
    features, workers = config.features, config.workers
    bytes_state = run.num_trained * 4 * 4
    lines = [
        f"{config.name}: {len(run.sample_ids):,} samples of {config.shards}",
        f"parameters: {run.num_trained:,} trained, {run.num_frozen:,} frozen",
        f"steps: {config.schedule.num_steps:,} of {config.batch_size} images, {steps_per_epoch:,} an epoch, "
        f"{config.schedule.num_steps / steps_per_epoch:.1f} epochs",
        f"workers: {workers.num_workers} x {config.micro_batch_size} images x {workers.micro_batches} micro-batches, "
        f"{config.engine.kind}" + (f", ZeRO {config.engine.zero_stage}" if config.engine.kind == "deepspeed" else ""),
        f"memory: {bytes_state / 2**20:,.0f} MiB of weights, gradients and moments in all; "
        f"{feature_bytes(config, run.spec) / 2**20:.1f} MiB of features an image, {features.mode}, {features.codec}",
        f"output: {config.output}, checkpoints every {config.checkpoints.every:,} steps",
    ]
    if run.spec.notice:
        lines.append(run.spec.notice)
    return "\n".join(lines)


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
    # Checkpoints are made of the shard set's ids: the text rows and initial weights are the same on every start.
    text, fine_tuned = _given(run)
    # What a reader of the run's folder must know, random weights included.
    card = {"plan": describe(run).splitlines(), "notice": run.spec.notice, "config": to_json_dict(config)}
    Storage(config.output).write_bytes("run.json", (json.dumps(card, indent=1) + "\n").encode())
    reached = -1
    while True:
        newest = store.newest()
        state = newest.loop if newest is not None else LoopState()
        if state.step >= config.schedule.num_steps:
            break
        if state.step == reached:
            raise FrozenSegError(
                f"the workers ended, but no checkpoint past step {reached} lies at {config.checkpoint_address}"
            )
        reached = state.step
        if newest is not None:
            write_line(f"train: going on from step {state.step}")
        last_step = min(config.schedule.num_steps, state.step + max(1, MAX_ROWS_PER_FIT // config.batch_size))
        plan = WorkerPlan(
            config=config,
            stream=config.stream_config(run.spec),
            spec=run.spec,
            text=text,
            num_samples=len(run.sample_ids),
            last_step=last_step,
            decoder=fine_tuned,
        )
        fit(plan, run.sample_ids)
    assert newest is not None
    model = run.build()
    model.decoder.load_state_dict(newest.engine.parameters)
    folder = Path(config.output) / "model"
    save_model(model, folder, notes=f"Trained for {state.step} steps on {config.shards}.")
    return folder


def _given(run: Run) -> tuple[TextEmbeddings, dict[str, Tensor]]:
    """The rows of the training vocabulary, and the decoder's weights where another model's are trained on."""
    model = run.build()
    assert run.spec.training_vocabulary is not None
    weights = dict(model.decoder.state_dict()) if run.config.model.start_from is not None else {}
    text = model.text(run.spec.training_vocabulary)
    del model
    _return_free_memory()
    return text, weights


def _return_free_memory() -> None:
    """To the system. glibc keeps what lies below the last block in use: with a large CLIP, a gigabyte and a half."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


def rows_left(plan: WorkerPlan, sample_ids: tuple[str, ...]) -> Rows:
    """Rows from the newest checkpoint to `plan.last_step`, as many as the steps left take."""
    newest = checkpoint_store(plan.config).newest()
    state = newest.loop if newest is not None else LoopState()
    batch = plan.config.batch_size
    wanted = (plan.last_step - state.step) * batch
    epoch, parts, found = state.epoch, [], 0
    while found < wanted:
        part = epoch_rows(sample_ids, plan.config.seed, [epoch], batch, state.consumed)
        parts.append(torch.from_numpy(part))
        found, epoch = found + len(part), epoch + 1
    rows: Rows = torch.cat(parts)[:wanted].numpy()
    return rows


def fit(plan: WorkerPlan, sample_ids: tuple[str, ...]) -> None:
    """One Ray Train fit up to `plan.last_step`. The rows are planned anew at every start of the worker group."""
    from ray.train import DataConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    config = plan.config
    workers = config.workers
    resources = {"CPU": workers.cpus} | ({"GPU": workers.gpus} if workers.gpus else {})

    def dataset() -> Any:
        return feature_stream(plan.stream, rows_left(plan, sample_ids))

    trainer = TorchTrainer(
        train,
        train_loop_config={"plan": plan},
        torch_config=TorchConfig(backend="nccl" if workers.gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers.num_workers, use_gpu=workers.gpus > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(
            # Of no use after this fit: what survives is in our own checkpoints, so every fit has a name of its own.
            name=f"fit-{time.time_ns()}",
            storage_path=str(Path(config.output) / "ray"),
            failure_config=FailureConfig(max_failures=workers.max_failures),
        ),
        datasets={DATASET: dataset},
        dataset_config=DataConfig(execution_options=execution_options(plan.stream)),
    )
    trainer.fit()

"""What one Ray Train worker runs: an engine, the newest checkpoint, this rank's batches, the library's loop."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from frozenseg.config import to_json_dict
from frozenseg.decoder import MaskDecoder
from frozenseg.losses import Criterion
from frozenseg.memory import keep_freed_memory
from frozenseg.model import ModelSpec
from frozenseg.model.load_encoders import seeded
from frozenseg.training import (
    AlertHook,
    Checkpoint,
    CheckpointStore,
    Engine,
    Hook,
    JsonLinesHook,
    LoopSettings,
    LoopState,
    ProgressHook,
    ScalarsHook,
    TorchEngine,
    Writer,
    restore_random_state,
    run,
)
from frozenseg.training.hooks import write_line
from frozenseg.types import TextEmbeddings, TrainingBatch
from pipelines.deepspeed_engine import DeepSpeedEngine, ensure_process_group
from pipelines.stream import training_batches
from pipelines.stream_config import StreamConfig
from pipelines.stream_watch import StreamRecorder, StreamWatch
from pipelines.trackers import open_writers
from pipelines.train_config import TrainConfig
from pipelines.validation import Validator, tell

DATASET = "train"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WorkerPlan:
    """What the driver hands to every worker.

    Fields: config: with absolute paths; stream: of the features; spec: of the model; text: rows of the training
    vocabulary, made once by the driver; num_samples: of an epoch; last_step: where this fit ends; decoder: initial
    weights for fine-tuning, empty for fresh ones.
    """

    config: TrainConfig
    stream: StreamConfig
    spec: ModelSpec
    text: TextEmbeddings
    num_samples: int
    last_step: int
    decoder: dict[str, torch.Tensor]


def checkpoint_store(config: TrainConfig) -> CheckpointStore:
    return CheckpointStore(
        config.checkpoint_address,
        keep_last=config.checkpoints.keep_last,
        best_by=config.validation.select,
        warn=write_line,
    )


def train(loop_config: dict[str, Any]) -> None:
    """The function given to Ray Train; `loop_config["plan"]` is a WorkerPlan."""
    import ray.train

    plan: WorkerPlan = loop_config["plan"]
    # Whatever trains: batches come out of Ray's memory into this process's, 49 MB an image at 1024.
    keep_freed_memory(torch.device("cpu"))
    shard = ray.train.get_dataset_shard(DATASET)
    context = ray.train.get_context()
    num_workers, rank = context.get_world_size(), context.get_world_rank()
    path = Path(plan.config.output) / "stream" / f"rank-{rank}.jsonl"
    watch = StreamWatch(num_workers, StreamRecorder(path, rank, write_line if rank == 0 else None))
    train_on(plan, streamed(shard, plan.stream, plan.config.micro_batch_size(num_workers), watch))


def streamed(
    shard: Any, stream: StreamConfig, batch_size: int, watch: StreamWatch | None = None
) -> Iterator[TrainingBatch]:
    """The feature stream's batches as the loop takes them."""
    for item in training_batches(shard, stream, batch_size, watch):
        yield dataclasses.replace(item.batch, consumed=item.consumed)


def train_on(plan: WorkerPlan, batches: Iterator[TrainingBatch]) -> LoopState:
    """Trains from the newest checkpoint (or from the start) to `plan.last_step`."""
    config = plan.config
    torch.set_num_threads(config.workers.threads)
    engine = build_engine(plan)
    store = checkpoint_store(config)
    newest = store.newest()
    state = LoopState()
    torch.manual_seed(config.seed * 1_000_003 + engine.rank)
    if newest is not None:
        state = newest.loop
        engine.load(newest.engine)
        restore_random_state(newest.random_states, engine.rank, engine.world_size, config.seed, state.step)

    writers = open_writers(config, state.step) if engine.rank == 0 else []
    validator = Validator(config, plan.spec, engine.device) if config.validation.shards is not None else None

    def save(reached: LoopState) -> None:
        engine_state = engine.save()
        random_states = tuple(engine.gather(torch.get_rng_state()))
        if engine.rank != 0:
            return
        validation = validator(engine_state.parameters) if validator is not None else None
        checkpoint = Checkpoint(
            loop=reached,
            engine=engine_state,
            random_states=random_states,
            scores=validation.scores if validation is not None else {},
            config=to_json_dict(config),
        )
        store.save(checkpoint)
        if validation is not None:
            write_line(tell(validation, reached.step, writers))

    return run(
        engine,
        batches,
        plan.text.to(engine.device),
        Criterion(config.loss.num_points, config.loss.weights),
        config.step_decay(),
        LoopSettings(
            num_steps=plan.last_step,
            num_samples=plan.num_samples,
            accumulation=config.workers.micro_batches,
            checkpoint_every=config.checkpoints.every,
            max_skipped=config.engine.max_skipped,
        ),
        state=state,
        hooks=build_hooks(config, engine, state.step, writers),
        save=save,
    )


def build_engine(plan: WorkerPlan) -> Engine:
    """The engine with a decoder that is fresh (the same on every worker) or the one to fine-tune."""
    config = plan.config
    with seeded(config.model.init_seed):
        decoder = MaskDecoder(plan.spec.decoder)
    if plan.decoder:
        decoder.load_state_dict(plan.decoder)
    device = worker_device(config)
    autocast = torch.bfloat16 if config.engine.dtype == "bfloat16" else None
    accumulation = config.workers.micro_batches
    if config.engine.kind == "torch":
        return TorchEngine(decoder, config.optimizer, device=device, autocast=autocast, accumulation=accumulation)
    ensure_process_group()
    return DeepSpeedEngine(
        decoder.to(device),
        config.optimizer,
        micro_batch_size=config.micro_batch_size(dist.get_world_size()),
        zero_stage=config.engine.zero_stage,
        device=device,
        autocast=autocast,
        accumulation=accumulation,
    )


def worker_device(config: TrainConfig) -> torch.device:
    if config.workers.gpus and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return torch.device("cpu")


def build_hooks(config: TrainConfig, engine: Engine, first_step: int, writers: Sequence[Writer]) -> list[Hook]:
    """Every rank records which samples it used; the first one does the rest."""
    output = Path(config.output)
    samples = output / "samples"
    hooks: list[Hook] = [JsonLinesHook(samples / f"rank-{engine.rank}.jsonl", first_step, with_samples=True)]
    if engine.rank == 0:
        for path in samples.glob("rank-*.jsonl"):
            # Of a larger group before: its lines after the checkpoint tell of steps that are done again.
            if int(path.stem.removeprefix("rank-")) >= engine.world_size:
                JsonLinesHook(path, first_step, with_samples=True).close()
        hooks += [
            ProgressHook(config.schedule.num_steps, first_step),
            JsonLinesHook(output / "metrics.jsonl", first_step),
            ScalarsHook(writers),
            AlertHook(),
        ]
    return hooks

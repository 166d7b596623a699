"""Measures the rates of one worker of each stage on this machine, one stage after the other, in this process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from frozenseg.decoder import MaskDecoder
from frozenseg.errors import UserInputError
from frozenseg.losses import Criterion
from frozenseg.training import LoopSettings, TorchEngine, run
from frozenseg.types import TextEmbeddings, TrainingBatch
from pipelines import columns as c
from pipelines.encoder_pool import EncoderActor
from pipelines.planning.rates import StageRates
from pipelines.stream import actor_arguments, epoch_rows, load_rows
from pipelines.stream_config import StreamConfig
from pipelines.train import Run
from pipelines.train_config import TrainConfig
from shards import ShardReader

_FEATURE_COLUMNS = (*c.LEVELS, c.SAM)


def calibrate(prepared: Run, num_blocks: int = 4) -> StageRates:
    """Reads, encodes and trains on a few blocks of the run's own samples.

    Args:
        num_blocks: of the stream's blocks that are timed, after one that warms up.

    Raises:
        UserInputError: fewer than one block, or a shard set that cannot be read.
    """
    if num_blocks < 1:
        raise UserInputError(f"calibration: expected at least one block, found {num_blocks}")
    config = prepared.config
    stream = config.stream_config(prepared.spec)
    torch.set_num_threads(config.workers.threads)
    blocks, read_seconds = _read(stream, prepared.sample_ids, num_blocks)
    actor = EncoderActor(**{**actor_arguments(stream), "cache": None})
    encoded, encode_seconds = _timed(actor, blocks)
    dtype = torch.float32 if stream.dtype == "float32" else torch.bfloat16
    per_block, per_batch = stream.images_per_block, min(stream.images_per_block, config.micro_batch_size())
    pieces = [c.rows_of(block, start, per_batch) for block in encoded for start in range(0, per_block, per_batch)]
    batches, receive_seconds = _timed(lambda piece: c.columns_to_training_batch([piece], dtype), pieces)
    features = sum(v.nbytes for name, v in encoded[0].items() if name.split(".", 1)[0] in _FEATURE_COLUMNS)
    return StageRates(
        read_seconds=read_seconds / per_block,
        encode_seconds=encode_seconds / per_block,
        train_seconds=_train(prepared, batches) / per_batch,
        receive_seconds=receive_seconds / per_batch,
        block_images=per_block,
        feature_bytes=features / per_block,
        sample_bytes=_sample_bytes(stream.shards),
    )


def _read(stream: StreamConfig, sample_ids: tuple[str, ...], num_blocks: int) -> tuple[list[c.Columns], float]:
    per_block = stream.images_per_block
    rows = epoch_rows(sample_ids, stream.seed, range(1 + (num_blocks + 1) * per_block // len(sample_ids)), per_block)
    numbers = [np.arange(start, start + per_block) for start in range(0, (num_blocks + 1) * per_block, per_block)]
    return _timed(lambda ids: load_rows({"id": ids}, rows, stream), numbers)


def _sample_bytes(shards: str) -> float:
    """Of a sample's files in the shards, on average, with what the tars add."""
    files = ShardReader(shards).manifest.files
    return sum(file.num_bytes for file in files) / max(1, sum(len(file.sample_ids) for file in files))


def _timed(function: Callable[[Any], Any], items: list[Any]) -> tuple[list[Any], float]:
    """Results of all items, and the median seconds of the calls after the first."""
    results, seconds = [], []
    for item in items:
        started = time.perf_counter()
        results.append(function(item))
        seconds.append(time.perf_counter() - started)
    return results, float(np.median(seconds[1:]))


def _train(prepared: Run, batches: list[TrainingBatch]) -> float:
    """Median seconds of an optimizer step on one batch; the text rows are random numbers of the right shape."""
    config: TrainConfig = prepared.config
    vocabulary = prepared.spec.training_vocabulary
    assert vocabulary is not None
    num_rows = sum(len(category.names) for category in vocabulary.categories)
    category = [number for number, entry in enumerate(vocabulary.categories) for _ in entry.names]
    text = TextEmbeddings(
        rows=torch.nn.functional.normalize(torch.randn(num_rows, prepared.spec.decoder.embedding_dim), dim=-1),
        row_category=torch.tensor(category),
    )
    engine = TorchEngine(MaskDecoder(prepared.spec.decoder), config.optimizer)
    criterion = Criterion(config.loss.num_points, config.loss.weights)
    seconds = []
    for batch in batches:
        started = time.perf_counter()
        limits = LoopSettings(num_steps=1, num_samples=len(prepared.sample_ids))
        run(engine, iter([batch]), text, criterion, config.step_decay(), limits)
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[1:]))

"""The feature stream: which samples, in which order, through which stages, to the trainers.

    rows (epoch, index, is padding) -> CPU tasks read the shard and augment -> pool of encoder actors -> trainers

The order is a pure function of (seed, epoch), the augmentation of (seed, epoch, image id): a run that stops is resumed
by asking for the rows that are left. A block of Ray Data holds the same number of rows at every stage, because cutting
and joining blocks costs more than the transport itself; by default it is a trainer's batch, or several small ones.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from frozenseg.data import Jitter, decode_annotation, decode_image
from frozenseg.errors import SkippedShareError, UserInputError
from frozenseg.types import PanopticTarget, TrainingBatch
from pipelines import columns as c
from pipelines.encoder_pool import EncoderActor
from pipelines.one_ahead import one_ahead
from pipelines.ray_session import quiet_context
from pipelines.stream_config import OPENED_BLOCKS, StreamConfig
from pipelines.stream_watch import StreamWatch, stamped, worker_column
from shards import ShardReader, epoch_order

logger = logging.getLogger(__name__)
Rows = npt.NDArray[np.int64]
"""[n,3] int64: epoch, index of the sample in the shard set, 1 for padding."""


def epoch_rows(
    sample_ids: Sequence[str],
    seed: int,
    epochs: Iterable[int],
    multiple: int,
    consumed: Mapping[int, Collection[str]] | None = None,
) -> Rows:
    """The rows of some epochs in order, each epoch filled up with padding to a multiple of `multiple`.

    Args:
        sample_ids: of the whole set, in its order.
        multiple: of the images of a global step (all ranks), so that no rank ends before another.
        consumed: ids already used, by epoch; they are left out before the filling up.

    Returns:
        [n,3]; padding rows repeat samples of the epoch with the mark set.
    """
    parts = []
    for epoch in epochs:
        order = epoch_order(len(sample_ids), seed, epoch)
        used = set((consumed or {}).get(epoch, ()))
        left = np.array([i for i in order.tolist() if sample_ids[i] not in used] if used else order, dtype=np.int64)
        if not left.size:
            continue
        padding = order[np.arange(-left.size % multiple) % len(order)]
        indices = np.concatenate([left, padding])
        is_padding = np.repeat([0, 1], [left.size, padding.size])
        parts.append(np.stack([np.full_like(indices, epoch), indices, is_padding], axis=1))
    return np.concatenate(parts) if parts else np.zeros((0, 3), dtype=np.int64)


def packed(rows: Rows, config: StreamConfig) -> Rows:
    """The rows in another order, where blocks hold several of a trainer's batches: so that each trainer gets, batch for
    batch, what it would get with blocks of one, and a run that stops between them goes on with the same batches.

    Args:
        rows: [n,3], batch after batch: the first trainer's, the second's and so on, then the first one's next.

    Returns:
        [m,3], m >= n: rows that only fill up stand at the ends of the last blocks, behind all that were asked for.
    """
    batch, per_block = config.batch_size, config.images_per_block
    if batch is None or per_block <= batch or per_block % batch:
        return rows
    filler = rows[np.arange(-len(rows) % (per_block * config.trainers)) % max(1, len(rows))]
    filler[:, 2] = 1
    turns = np.concatenate([rows, filler]).reshape(-1, per_block // batch, config.trainers, batch, 3)
    laid_out: Rows = turns.swapaxes(1, 2).reshape(-1, 3)
    return laid_out


def feature_stream(config: StreamConfig, rows: Rows) -> Any:
    """A ray.data.Dataset of these rows in this order: features and targets, or images and targets when `inline`.

    The number of rows must be a multiple of `images_per_block`.
    """
    import ray
    import ray.data

    table = ray.put(rows)
    images = row_numbers(len(rows), config).map_batches(
        _load_and_stamp,
        batch_size=config.images_per_block,
        fn_kwargs={"table": table, "config": config},
        zero_copy_batch=True,
        compute=ray.data.TaskPoolStrategy(config.max_readers),
    )
    if config.mode == "inline":
        return images
    return encoder_pool(images, config, StampedEncoderActor, actor_arguments(config))


def actor_arguments(config: StreamConfig) -> dict[str, Any]:
    """Of an `EncoderActor` that makes the stream's features, in the pool or in a trainer."""
    return {
        "source": config.encoders,
        "codec": config.codec,
        "with_dense": False,
        "cache": config.cache,
        "encoder_batch": config.encoder_batch,
    }


def row_numbers(num_rows: int, config: StreamConfig) -> Any:
    """A ray.data.Dataset of the numbers below `num_rows`, in blocks of `images_per_block`, with the bounds.

    Raises:
        UserInputError: no rows, or rows that don't fill blocks.
    """
    import ray.data

    per_block = config.images_per_block
    if num_rows == 0 or num_rows % per_block:
        raise UserInputError(
            f"feature stream: expected a multiple of {per_block} rows and at least one, found {num_rows}"
        )
    # A range is made where it is read: no block per row travels from the driver, however long the run is.
    numbers = ray.data.range(num_rows, override_num_blocks=num_rows // per_block)
    # Ray Train runs it in a process of its own, with these settings: progress bars would fill a job's log.
    quiet_context(numbers.context)
    # Larger blocks would be cut in two, at 1.5 times this size.
    target = numbers.context.target_max_block_size or 0
    numbers.context.target_max_block_size = max(target, math.ceil(config.block_bytes))
    numbers.context.execution_options = execution_options(config)
    return numbers


def encoder_pool(images: Any, config: StreamConfig, actor: type[Any], arguments: Mapping[str, Any]) -> Any:
    """The stage of `feature_stream` that turns images into features: a pool of actors over a ray.data.Dataset.

    Args:
        actor, arguments: built once per process; called with a block of columns, it returns a block of columns.
    """
    import ray.data

    return images.map_batches(
        actor,
        fn_constructor_kwargs=dict(arguments),
        batch_size=config.images_per_block,
        zero_copy_batch=True,
        compute=ray.data.ActorPoolStrategy(min_size=config.min_actors, max_size=config.max_actors),
        num_cpus=config.actor_cpus,
        num_gpus=config.actor_gpus,
        resources={config.actor_resource: 1.0} if config.actor_resource else None,
    )


def execution_options(config: StreamConfig) -> Any:
    """For the data set and for Ray Train's DataConfig, which would otherwise put its own in their place."""
    from ray.data import ExecutionOptions

    options = ExecutionOptions(preserve_order=True)
    if config.object_store_mb is not None:
        counted = config.object_store_mb * 2**20 - config.trainers * OPENED_BLOCKS * config.block_bytes
        options.resource_limits = options.resource_limits.copy(object_store_memory=counted)
    return options


class StampedEncoderActor(EncoderActor):
    """With what a watcher of the stream wants to know."""

    def __call__(self, columns: c.Columns) -> c.Columns:
        made = stamped(super().__call__, c.ENCODE_SECONDS)(columns)
        return {**made, c.ENCODER: worker_column(len(made[c.IMAGE_ID]))}


def _load_and_stamp(batch: dict[str, npt.NDArray[Any]], table: Any, config: StreamConfig) -> c.Columns:
    return stamped(functools.partial(load_rows, table=table, config=config), c.READ_SECONDS)(batch)


@functools.lru_cache(maxsize=4)
def _reader(address: str) -> ShardReader:
    """One per worker process: a large manifest takes a while to read."""
    return ShardReader(address)


def load_rows(batch: dict[str, npt.NDArray[Any]], table: Any, config: StreamConfig) -> c.Columns:
    """The stage that reads and augments: row numbers -> images [B,3,S,S] uint8 with their targets.

    A sample that cannot be read becomes a blank image with its error beside it, so that the ranks stay in step.
    """
    if not isinstance(table, np.ndarray):
        import ray

        table = ray.get(table)
    torch.set_num_threads(1)
    rows = table[batch["id"]]
    loaded = [_load(config, int(epoch), int(index)) for epoch, index, _ in rows]
    size = config.jitter.crop_size
    return {
        c.IMAGE_ID: np.array([sample.image_id for sample in loaded]),
        c.EPOCH: rows[:, 0].copy(),
        c.INDEX: rows[:, 1].copy(),
        c.IS_PADDING: rows[:, 2].astype(np.bool_),
        c.ERROR: np.array([sample.error for sample in loaded]),
        c.IMAGE: np.stack([sample.image.numpy() for sample in loaded]),
        c.VALID_SIZE: np.full((len(loaded), 2), size, dtype=np.int64),
        **c.target_to_columns([sample.target for sample in loaded]),
    }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Loaded:
    image_id: str
    image: torch.Tensor
    target: PanopticTarget
    error: str = ""


def _load(config: StreamConfig, epoch: int, index: int) -> _Loaded:
    reader = _reader(config.shards)
    file, position = reader.locate(index)
    image_id = file.sample_ids[position]
    try:
        sample = reader[index]
        image = decode_image(sample.image_bytes, image_id, file_name=sample.file_name)
        crop, target = Jitter(config.jitter)(image, decode_annotation(sample), config.seed, config.view(epoch))
    except UserInputError as error:
        size = config.jitter.crop_size
        empty = PanopticTarget(
            masks=torch.zeros((0, size, size), dtype=torch.bool),
            category_ids=torch.zeros(0, dtype=torch.int64),
            is_thing=torch.zeros(0, dtype=torch.bool),
        )
        blank = torch.zeros((3, size, size), dtype=torch.uint8)
        return _Loaded(image_id=image_id, image=blank, target=empty, error=str(error))
    return _Loaded(image_id=image_id, image=crop, target=target)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StreamedBatch:
    """One batch for the training loop. consumed: image ids by epoch that a checkpoint must remember as done: those of
    unreadable samples too, but not those of rows that only fill up."""

    batch: TrainingBatch
    consumed: dict[int, tuple[str, ...]]


def training_batches(
    shard: Any, config: StreamConfig, batch_size: int, stream_watch: StreamWatch | None = None
) -> Iterator[StreamedBatch]:
    """Batches of `batch_size` images for one rank, the same numbers in every mode.

    Args:
        shard: the rank's `ray.train.get_dataset_shard(...)`, or any Ray data set made by `feature_stream`.
        batch_size: images per rank and step, a multiple of `images_per_block` or a divisor of it.
        stream_watch: looks at every block as it is taken.

    Raises:
        SkippedShareError: more unreadable samples than `max_skipped_share`.
    """
    per_block = config.images_per_block
    if batch_size % per_block and per_block % batch_size:
        raise UserInputError(
            f"batch size {batch_size} and blocks of {per_block} images: expected one to divide the other"
        )
    batches = _training_batches(shard, config, batch_size, stream_watch)
    # Encoders in the trainer itself take its turns, and its memory.
    return batches if config.mode == "inline" else one_ahead(batches)


def _training_batches(
    shard: Any, config: StreamConfig, batch_size: int, stream_watch: StreamWatch | None
) -> Iterator[StreamedBatch]:
    per_block = config.images_per_block
    dtype = torch.float32 if config.dtype == "float32" else torch.bfloat16
    encode = EncoderActor(**actor_arguments(config)) if config.mode == "inline" else None
    watch = _SkipWatch(config.max_skipped_share)
    step = min(batch_size, per_block)
    pieces: list[c.Columns] = []
    prefetch = prefetched_blocks(config, batch_size)
    for block in shard.iter_batches(batch_size=per_block, batch_format="numpy", prefetch_batches=prefetch):
        if stream_watch is not None:
            stream_watch.look_at(block)
        block = encode(block) if encode is not None else block
        watch.look_at(block)
        for start in range(0, len(block[c.IMAGE_ID]), step):
            pieces.append(c.rows_of(block, start, step))
        # While the trainer works on what was copied out of them, the blocks must not keep Ray's memory.
        del block
        while len(pieces) * step >= batch_size:
            ready = _streamed(pieces[: batch_size // step], dtype)
            del pieces[: batch_size // step]
            yield ready


def prefetched_blocks(config: StreamConfig, batch_size: int) -> int:
    """Blocks that a trainer asks for ahead: two batches, and no more than half of its share of the bound, because what
    is asked for is made, bound or not."""
    wanted = max(2, 2 * batch_size // config.images_per_block)
    if config.object_store_mb is None:
        return wanted
    share = config.object_store_mb * 2**20 / config.block_bytes / config.trainers - OPENED_BLOCKS
    return max(1, min(wanted, int(share / 2)))


def _streamed(pieces: Sequence[c.Columns], dtype: torch.dtype) -> StreamedBatch:
    consumed: dict[int, tuple[str, ...]] = {}
    for piece in pieces:
        for epoch, image_id, filler in zip(piece[c.EPOCH], piece[c.IMAGE_ID], piece[c.IS_PADDING], strict=True):
            if not filler:
                consumed[int(epoch)] = (*consumed.get(int(epoch), ()), str(image_id))
    return StreamedBatch(batch=c.columns_to_training_batch(pieces, dtype), consumed=consumed)


class _SkipWatch:
    """Counts unreadable samples, names each, and ends the run when they are too many."""

    def __init__(self, max_share: float) -> None:
        self.max_share = max_share
        self.num_seen = 0
        self.num_skipped = 0

    def look_at(self, block: c.Columns) -> None:
        self.num_seen += len(block[c.ERROR])
        for image_id, error in zip(block[c.IMAGE_ID], block[c.ERROR], strict=True):
            if error:
                self.num_skipped += 1
                logger.warning("skipped %s: %s", image_id, error)
        # A share of a handful of images says nothing.
        if self.num_seen >= 100 and self.num_skipped > self.max_share * self.num_seen:
            raise SkippedShareError(
                f"{self.num_skipped} of {self.num_seen} samples cannot be read, more than the share of "
                f"{self.max_share:g} that is allowed"
            )

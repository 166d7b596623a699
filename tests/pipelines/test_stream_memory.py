"""Memory of the feature stream while its consumer lags: what is under way stays below what the config states."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from frozenseg.data import JitterConfig
from frozenseg.errors import UserInputError
from pipelines import columns as c
from pipelines.encoder_pool import EncoderSource
from pipelines.miniature_shards import write_miniature_shards
from pipelines.stream import (
    StreamedBatch,
    epoch_rows,
    feature_stream,
    prefetched_blocks,
    training_batches,
)
from pipelines.stream_config import StreamConfig
from shards import ShardReader
from tests.model.tiny import tiny_spec

NUM_SCENES, NUM_EPOCHS, BATCH = 20, 5, 4
BOUND_MB = 7
QUIET_S, FILL_S = 5.0, 120.0


class Blocks:
    """Stands for a `StreamWatch`: keeps when each image's features were finished, and the bytes of an image."""

    def __init__(self) -> None:
        self.made_at: list[float] = []
        self.image_bytes = 0.0

    def look_at(self, block: c.Columns) -> None:
        self.made_at += block[c.MADE_AT].tolist()
        self.image_bytes = sum(values.nbytes for values in block.values()) / len(block[c.IMAGE_ID])


def used_mb() -> float:
    """MiB of Ray's object store that are taken, by Ray's own count."""
    import ray

    name = "object_store_memory"
    return (ray.cluster_resources()[name] - ray.available_resources().get(name, 0.0)) / 2**20


def watched(seconds: float, until: Callable[[list[float]], bool] = lambda _: False) -> list[float]:
    """`used_mb` every half second, for so long or until the figures say that it is enough."""
    found: list[float] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not until(found):
        found.append(used_mb())
        time.sleep(0.5)
    return found


def stands_still(found: list[float]) -> bool:
    last = found[-int(QUIET_S / 0.5) - 1 :]
    return len(last) > QUIET_S / 0.5 and max(last) - min(last) < 0.1


@pytest.mark.parametrize("lag_s", [3.0, pytest.param(90.0, marks=pytest.mark.slow)])
def test_a_slow_consumer_holds_the_pool_back(lag_s: float, tmp_path: Path, ray_session: None) -> None:
    """One batch is taken, then none until well after the pool has stopped by itself; then everything that is left."""
    write_miniature_shards(str(tmp_path / "shards"), "train", NUM_SCENES, scenes_per_shard=10)
    ids = [i for file in ShardReader(tmp_path / "shards").manifest.files for i in file.sample_ids]
    config = StreamConfig(
        shards=str(tmp_path / "shards"),
        encoders=EncoderSource(spec=tiny_spec()),
        jitter=JitterConfig(crop_size=128),
        encoder_batch=2,
        max_actors=2,
        actor_cpus=0.5,
        max_readers=2,
        object_store_mb=BOUND_MB,
    )
    before = used_mb()
    rows = epoch_rows(ids, 0, range(NUM_EPOCHS), BATCH)
    # As Ray Train hands it to a trainer.
    (shard,) = feature_stream(config, rows).streaming_split(1, equal=True)
    blocks: Any = Blocks()
    stream = training_batches(shard, config, BATCH, blocks)
    taken: list[StreamedBatch] = [next(stream)]

    filling = watched(FILL_S, stands_still)
    lag_began = time.time()
    lagging = watched(lag_s)
    lag_ended = time.time()
    taken += stream

    made_at = np.array(blocks.made_at)
    num_ahead = int((made_at < lag_ended).sum()) - BATCH
    ahead_mb = num_ahead * blocks.image_bytes / 2**20
    assert len(made_at) * blocks.image_bytes / 2**20 > 3 * BOUND_MB, "there was much more to make"
    assert 0 < ahead_mb <= BOUND_MB
    assert (made_at < lag_began).sum() == (made_at < lag_ended).sum(), "the pool stands still"
    assert max(*filling, *lagging) - before <= BOUND_MB
    assert max(lagging) - min(lagging) < 0.1, "and so does Ray's memory"
    for epoch in range(NUM_EPOCHS):
        assert sorted(i for batch in taken for i in batch.consumed.get(epoch, ())) == sorted(ids)


def test_a_bound_that_cannot_be_kept_is_refused() -> None:
    """A block: 4 bytes of (32/16 + 64/64 + 96/256 + 128/1024) values a pixel, and 3 bytes of truth."""
    large = StreamConfig(shards="", encoders=EncoderSource(spec=tiny_spec()), jitter=JitterConfig(crop_size=1024))
    assert large.block_bytes == 17 * 2**20
    assert replace(large, object_store_mb=72, mode="inline").block_bytes == 6 * 2**20
    with pytest.raises(UserInputError, match=r"at least 204 \(1 x 6 \+ 6 blocks of 17\.0 MiB\), found 203"):
        replace(large, object_store_mb=203)
    with pytest.raises(UserInputError, match="at least 306 "):
        replace(large, object_store_mb=204, trainers=2)


@pytest.mark.parametrize(
    ("bound_mb", "trainers", "expected"), [(None, 1, 32), (204, 1, 3), (306, 2, 1), (10_000, 1, 32)]
)
def test_no_more_is_asked_for_ahead_than_the_bound_has_room_for(
    bound_mb: int | None, trainers: int, expected: int
) -> None:
    large = StreamConfig(
        shards="",
        encoders=EncoderSource(spec=tiny_spec()),
        jitter=JitterConfig(crop_size=1024),
        object_store_mb=bound_mb,
        trainers=trainers,
    )
    assert prefetched_blocks(large, batch_size=16) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 1),
        ({"encoder_batch": 2}, 2),
        ({"batch_size": 4}, 4),
        ({"batch_size": 4, "encoder_batch": 2}, 4),
        ({"batch_size": 6, "encoder_batch": 4}, 4),  # as large as one encoder batch, though it divides no batch
        ({"batch_size": 2, "encoder_batch": 4}, 4),
        ({"batch_size": 30}, 15),  # of 17 MiB each, no more than 256 MiB
        ({"batch_size": 4, "object_store_mb": 12 * 17 * 2}, 2),
        ({"batch_size": 4, "object_store_mb": 18 * 17 * 2, "trainers": 2}, 2),
        ({"batch_size": 4, "block_images": 12, "encoder_batch": 4}, 12),
        ({"batch_size": 100, "mode": "inline"}, 25),
        ({"batch_size": 4, "batches_per_block": 2}, 8),
        ({"batch_size": 4, "batches_per_block": 5}, 12),  # as above
        ({"batch_size": 3, "batches_per_block": 3, "encoder_batch": 2}, 6),
        ({"batch_size": 30, "batches_per_block": 2}, 15),
        ({"batch_size": 4, "batches_per_block": 2, "object_store_mb": 12 * 17 * 7}, 4),
        ({"batch_size": 4, "batches_per_block": 2, "block_images": 2}, 2),
    ],
)
def test_a_block_is_a_trainers_batch_or_several_as_far_as_memory_goes(changes: dict[str, Any], expected: int) -> None:
    """An image takes 17 MiB as above, and 6 where it is encoded by the trainer."""
    jitter = JitterConfig(crop_size=1024)
    config = StreamConfig(shards="", encoders=EncoderSource(spec=tiny_spec()), jitter=jitter, **changes)
    assert config.images_per_block == expected
    assert config.block_bytes == expected * config.image_bytes


def test_the_blocks_that_were_asked_for_need_their_memory() -> None:
    large = StreamConfig(
        shards="", encoders=EncoderSource(spec=tiny_spec()), jitter=JitterConfig(crop_size=1024), block_images=4
    )
    with pytest.raises(UserInputError, match=r"at least 816 \(1 x 6 \+ 6 blocks of 68\.0 MiB\), found 815"):
        replace(large, object_store_mb=815)

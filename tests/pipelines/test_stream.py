"""The feature stream: order, resumption, padding, unreadable samples, and the same numbers in every mode."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pipelines.shard
from frozenseg.data import CocoPanoptic, JitterConfig
from frozenseg.errors import SkippedShareError, UserInputError
from frozenseg.types import Batch, EncoderFeatures
from pipelines import columns as c
from pipelines.encoder_pool import EncoderActor, EncoderSource, FrozenEncoders
from pipelines.shard import ShardOptions, shard_coco, write_job
from pipelines.stream import Rows, actor_arguments, epoch_rows, feature_stream, load_rows, packed, training_batches
from pipelines.stream_config import StreamConfig
from pipelines.stream_watch import StreamReport, StreamWatch
from shards import ShardReader, epoch_order
from tests.model.tiny import tiny_spec

SOURCE = EncoderSource(spec=tiny_spec())


@pytest.fixture
def shards(tmp_path: Path, make_coco: Callable[..., CocoPanoptic], monkeypatch: pytest.MonkeyPatch) -> str:
    """7 samples in 3 tars."""
    monkeypatch.setattr(pipelines.shard, "_run", lambda jobs: map(write_job, jobs))
    address = str(tmp_path / "shards")
    shard_coco(make_coco(7), ShardOptions(to=address, samples_per_shard=3))
    return address


def config_for(address: str, **changes: Any) -> StreamConfig:
    return StreamConfig(shards=address, encoders=SOURCE, jitter=JitterConfig(crop_size=64), **changes)


class LocalStream:
    """The stages of `feature_stream` one after the other in this process."""

    def __init__(self, config: StreamConfig, rows: Rows) -> None:
        self.config, self.rows = config, rows

    def iter_batches(self, batch_size: int, **_: object) -> Iterator[c.Columns]:
        actor = EncoderActor(**actor_arguments(self.config))
        for start in range(0, len(self.rows), batch_size):
            block = load_rows({"id": np.arange(start, start + batch_size)}, self.rows, self.config)
            yield block if self.config.mode == "inline" else actor(block)


def levels(features: EncoderFeatures) -> list[torch.Tensor]:
    return [*features.clip_pyramid, features.sam]


IDS = tuple(f"i{i}" for i in range(7))


def test_rows_are_whole_epochs_in_order_padded_to_whole_steps() -> None:
    rows = epoch_rows(IDS, seed=1, epochs=range(2), multiple=4)
    assert rows.shape == (16, 3)
    for epoch in range(2):
        part = rows[rows[:, 0] == epoch]
        assert part[:7, 1].tolist() == epoch_order(7, 1, epoch).tolist()
        assert part[:, 2].tolist() == [0] * 7 + [1]


def test_rows_after_a_restart_are_what_was_left() -> None:
    order = epoch_order(7, 1, 0)
    consumed = {0: [IDS[i] for i in order[[0, 2, 3]]]}
    rows = epoch_rows(IDS, 1, range(2), 2, consumed)
    first = rows[rows[:, 0] == 0]
    assert first[:, 1].tolist() == order[[1, 4, 5, 6]].tolist()
    assert len(rows) == 4 + 8
    assert len(epoch_rows(IDS, 1, [0], 2, {0: IDS})) == 0


def test_batches_hold_every_sample_once_with_its_truth(shards: str) -> None:
    config = config_for(shards)
    ids = [i for file in ShardReader(shards).manifest.files for i in file.sample_ids]
    rows = epoch_rows(ids, 0, [0], 4)
    batches = list(training_batches(LocalStream(config, rows), config, 4))
    assert [len(b.batch.image_ids) for b in batches] == [4, 4]
    assert sorted(i for b in batches for i in b.consumed[0]) == sorted(ids)
    assert [b.batch.is_padding for b in batches] == [(False,) * 4, (False, False, False, True)]
    assert batches[0].batch.image_ids == tuple(ids[i] for i in epoch_order(len(ids), 0, 0)[:4])
    target = batches[0].batch.targets[0]
    assert target.masks.shape[1:] == (64, 64)
    assert set(target.category_ids.tolist()) <= {0, 1}
    assert batches[0].batch.features.clip_pyramid[0].shape[-2:] == (16, 16)


@pytest.mark.parametrize(("encoder_batch", "batch_size"), [(1, 4), (2, 4), (4, 2)])
@pytest.mark.parametrize("codec", ["float32", "uint8"])
def test_inline_and_stream_give_the_same_bits(shards: str, encoder_batch: int, batch_size: int, codec: Any) -> None:
    rows = epoch_rows([str(i) for i in range(7)], 0, [3], 8)
    results = []
    for mode in ("inline", "stream"):
        config = config_for(shards, mode=mode, encoder_batch=encoder_batch, codec=codec)
        results.append(list(training_batches(LocalStream(config, rows), config, batch_size)))
    for inline, stream in zip(*results, strict=True):
        assert inline.batch.image_ids == stream.batch.image_ids
        pairs = zip(levels(inline.batch.features), levels(stream.batch.features), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("trainers", [1, 2, 3])
@pytest.mark.parametrize("batches_per_block", [1, 2, 3])
@pytest.mark.parametrize("num_turns", [1, 4, 6])
def test_each_trainer_gets_the_same_batches_however_many_share_a_block(
    trainers: int, batches_per_block: int, num_turns: int
) -> None:
    """Blocks are dealt to the trainers in turn."""
    batch = 2
    config = config_for("", batch_size=batch, trainers=trainers, batches_per_block=batches_per_block)
    rows = np.arange(num_turns * trainers * batch)[:, None].repeat(3, axis=1) * [0, 1, 0]
    laid_out = packed(rows, config)
    per_block = batches_per_block * batch
    assert config.images_per_block == per_block
    assert len(laid_out) % (per_block * trainers) == 0
    assert len(laid_out) - len(rows) < per_block * trainers
    blocks = laid_out.reshape(-1, per_block, 3)
    for rank in range(trainers):
        taken = blocks[rank::trainers].reshape(-1, batch, 3)
        expected = rows.reshape(num_turns, trainers, batch, 3)[:, rank]
        assert np.array_equal(taken[:num_turns], expected), "and in a run that goes on later, too"
        assert (taken[num_turns:, :, 2] == 1).all(), "no sample is counted twice"


def test_rows_are_laid_out_for_blocks_of_several_batches_only() -> None:
    rows = np.arange(24).reshape(8, 3)
    for config in (config_for(""), config_for("", batch_size=8, block_images=2), config_for("", batch_size=3)):
        assert packed(rows, config) is rows


@pytest.mark.parametrize("mode", ["inline", "stream"])
@pytest.mark.parametrize("codec", ["float32", "bfloat16", "uint8"])
@pytest.mark.parametrize(("block_images", "batch_size"), [(None, 4), (4, 2), (8, 4), (2, 4)])
def test_the_size_of_a_block_changes_no_bit(
    shards: str, block_images: int | None, batch_size: int, codec: Any, mode: Any
) -> None:
    rows = epoch_rows([str(i) for i in range(7)], 0, [3], 8)
    packed = config_for(
        shards, mode=mode, encoder_batch=2, batch_size=batch_size, block_images=block_images, codec=codec
    )
    alone = config_for(shards, mode="stream", encoder_batch=2, codec=codec)
    assert packed.images_per_block == (block_images or batch_size)
    assert alone.images_per_block == 2
    results = [list(training_batches(LocalStream(config, rows), config, batch_size)) for config in (packed, alone)]
    assert len(results[0]) == 8 // batch_size
    for one, other in zip(*results, strict=True):
        assert one.consumed == other.consumed
        assert one.batch.features.source == other.batch.features.source
        pairs = zip(levels(one.batch.features), levels(other.batch.features), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_augmentation_is_fresh_each_epoch_and_repeatable(shards: str) -> None:
    rows = np.array([[0, 2, 0], [1, 2, 0], [0, 2, 0]])
    images = load_rows({"id": np.arange(3)}, rows, config_for(shards))[c.IMAGE]
    assert (images[0] == images[2]).all()
    assert (images[0] != images[1]).any()


def test_an_unreadable_sample_is_named_blank_and_consumed(shards: str, caplog: pytest.LogCaptureFixture) -> None:
    reader = ShardReader(shards)
    file = reader.manifest.files[0]
    path = Path(shards) / file.name
    data = bytearray(path.read_bytes())
    data[512:612] = bytes(100)  # the beginning of the first image
    path.write_bytes(bytes(data))
    config = config_for(shards)
    rows = np.array([[0, 0, 0], [0, 1, 0]])
    with caplog.at_level(logging.WARNING):
        (batch,) = training_batches(LocalStream(config, rows), config, 2)
    assert batch.batch.is_padding == (True, False)
    assert batch.consumed == {0: file.sample_ids[:2]}
    assert f"skipped {file.sample_ids[0]}: image '{file.sample_ids[0]}'" in caplog.text
    many = np.tile(rows, (60, 1))
    inline = config_for(shards, mode="inline")
    with pytest.raises(SkippedShareError, match=r"of 100 samples cannot be read, more than the share of 0\.01"):
        list(training_batches(LocalStream(inline, many), inline, 2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_batch": 0}, "encoder_batch"),
        ({"min_actors": 3, "max_actors": 2}, "min_actors <= max_actors"),
        ({"encoder_batch": 4, "block_images": 6}, "block_images: expected a multiple of encoder_batch = 4, found 6"),
        ({"block_images": 0}, "block_images: expected a multiple of encoder_batch = 1, found 0"),
    ],
)
def test_streams_that_cannot_be(changes: dict[str, int], message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        config_for("x", **changes)


def test_rows_must_fill_blocks(shards: str) -> None:
    with pytest.raises(UserInputError, match="multiple of 4 rows"):
        feature_stream(config_for(shards, encoder_batch=4), np.zeros((6, 3), dtype=np.int64))
    config = config_for(shards, encoder_batch=3)
    with pytest.raises(UserInputError, match="divide"):
        next(training_batches(LocalStream(config, np.zeros((6, 3), dtype=np.int64)), config, 2))


def make_batch(num_images: int) -> Batch:
    random = torch.Generator().manual_seed(0)
    return Batch(
        image_ids=tuple(str(i) for i in range(num_images)),
        images=torch.randint(0, 256, (num_images, 3, 64, 64), dtype=torch.uint8, generator=random),
        valid_sizes=torch.full((num_images, 2), 64),
    )


def test_out_of_memory_halves_the_batch_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encoders = FrozenEncoders(SOURCE)
    whole = encoders.encode(make_batch(5))
    sizes: list[int] = []
    original = encoders._encode

    def limited(batch: Batch, with_sam: bool) -> EncoderFeatures:
        sizes.append(len(batch.image_ids))
        if len(batch.image_ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(batch, with_sam)

    monkeypatch.setattr(encoders, "_encode", limited)
    with caplog.at_level(logging.WARNING):
        parts = encoders.encode(make_batch(5))
        assert "out of memory with 5 images at once; going on with 2" in caplog.text
        assert sizes == [5, 2, 1, 2]
        sizes.clear()
        encoders.encode(make_batch(5))
    assert sizes == [2, 1, 2]
    for a, b in zip(levels(whole), levels(parts), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(
        encoders, "_encode", lambda batch, with_sam: (_ for _ in ()).throw(torch.OutOfMemoryError("no"))
    )
    with pytest.raises(torch.OutOfMemoryError):
        encoders.encode(make_batch(1))


@pytest.mark.parametrize("codec", ["float32", "uint8"])
def test_a_block_of_several_encoder_batches_survives_that_memory_runs_out(
    shards: str, codec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its second encoder batch of four: every image keeps its row, with the features that smaller batches give."""
    config = config_for(shards, encoder_batch=4, block_images=12, codec=codec)
    rows = epoch_rows([str(i) for i in range(7)], 0, range(2), 12)[:12]
    block = load_rows({"id": np.arange(12)}, rows, config)
    small = EncoderActor(**{**actor_arguments(config), "encoder_batch": 2})(block)
    actor = EncoderActor(**actor_arguments(config))
    original, sizes = actor.encoders._encode, []

    def limited(batch: Batch, with_sam: bool) -> EncoderFeatures:
        sizes.append(len(batch.image_ids))
        if len(sizes) > 1 and len(batch.image_ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(batch, with_sam)

    monkeypatch.setattr(actor.encoders, "_encode", limited)
    made = actor(block)
    assert sizes == [4, 4, 2, 2, 2, 2], "halved once, and known from then on"
    assert made.keys() == small.keys()
    assert made[c.IMAGE_ID].tolist() == block[c.IMAGE_ID].tolist()
    for name in (*c.LEVELS, c.SAM):
        # The rows behind the first encoder batch are of batches of two on both sides.
        assert np.array_equal(made[name][4:], small[name][4:])
    decoded = [c.columns_to_features([each], torch.float32) for each in (made, small)]
    for one, other in zip(*map(levels, decoded), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=0.02 if codec == "uint8" else 1e-5)


@pytest.mark.parametrize("block_images", [2, 4])
def test_ray_streams_the_same_bits_in_order(shards: str, block_images: int, ray_session: None) -> None:
    config = config_for(
        shards, encoder_batch=2, block_images=block_images, max_actors=2, actor_cpus=0.5, object_store_mb=100
    )
    rows = epoch_rows([str(i) for i in range(7)], 0, range(2), 4)
    reports: list[StreamReport] = []
    watch = StreamWatch(1, reports.append, every_s=0.0)
    streamed = list(training_batches(feature_stream(config, rows), config, 4, watch))
    local = list(training_batches(LocalStream(config, rows), config, 4))
    assert [b.batch.image_ids for b in streamed] == [b.batch.image_ids for b in local]
    for a, b in zip(streamed, local, strict=True):
        assert a.consumed == b.consumed
        pairs = zip(levels(a.batch.features), levels(b.batch.features), strict=True)
        assert all(torch.equal(x, y) for x, y in pairs)
        assert all(torch.equal(x.masks, y.masks) for x, y in zip(a.batch.targets, b.batch.targets, strict=True))
    assert len(reports) == len(rows) // block_images, "one a block"
    assert all(report.num_encoders == 1 and report.encode_seconds > 0 < report.read_seconds for report in reports)

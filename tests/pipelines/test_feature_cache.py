"""The feature cache: the same bits as the stream, encoders left alone on a hit, damage and budgets survived."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pipelines.shard
from frozenseg.data import CocoPanoptic, JitterConfig
from frozenseg.errors import UserInputError
from pipelines import columns as c
from pipelines.encoder_pool import EncoderActor, EncoderSource, FrozenEncoders
from pipelines.feature_cache import CacheOptions, FeatureCache
from pipelines.shard import ShardOptions, shard_coco, write_job
from pipelines.stream import load_rows
from pipelines.stream_config import StreamConfig
from tests.model.tiny import tiny_spec

SOURCE = EncoderSource(spec=tiny_spec())
ROWS = np.array([[0, 0, 0], [0, 1, 0], [0, 2, 0], [0, 3, 0]])


@pytest.fixture
def blocks(tmp_path: Path, make_coco: Callable[..., CocoPanoptic], monkeypatch: pytest.MonkeyPatch) -> Any:
    """epoch, number of views -> image columns of four samples in two blocks."""
    monkeypatch.setattr(pipelines.shard, "_run", lambda jobs: map(write_job, jobs))
    address = str(tmp_path / "shards")
    shard_coco(make_coco(4), ShardOptions(to=address, samples_per_shard=4))

    def read(epoch: int, num_views: int) -> list[c.Columns]:
        options = CacheOptions(address=str(tmp_path / "unused"), num_views=num_views)
        jitter = JitterConfig(crop_size=64)
        config = StreamConfig(shards=address, encoders=SOURCE, jitter=jitter, mode="cache", cache=options)
        rows = ROWS + np.array([epoch, 0, 0])
        return [load_rows({"id": np.arange(start, start + 2)}, rows, config) for start in (0, 2)]

    return read


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """(images, with SAM) of every call of the encoders."""
    calls: list[tuple[int, bool]] = []
    original = FrozenEncoders.encode

    def encode(self: FrozenEncoders, batch: Any, *, with_sam: bool = True) -> Any:
        calls.append((len(batch.image_ids), with_sam))
        return original(self, batch, with_sam=with_sam)

    monkeypatch.setattr(FrozenEncoders, "encode", encode)
    return calls


def assert_same(first: c.Columns, second: c.Columns) -> None:
    assert first.keys() == second.keys()
    for name, values in first.items():
        if values.dtype == object:
            assert list(values) == list(second[name]), name
        else:
            assert np.array_equal(values, second[name]), name


@pytest.mark.parametrize("codec", ["float32", "bfloat16", "uint8"])
@pytest.mark.parametrize("maps", ["all", "sam"])
def test_what_comes_from_the_cache_has_the_bits_of_the_stream(
    tmp_path: Path, blocks: Any, encoded: list[tuple[int, bool]], codec: Any, maps: Any
) -> None:
    cache = CacheOptions(address=str(tmp_path / "cache"), maps=maps)
    plain = EncoderActor(SOURCE, codec, with_dense=False)
    first, later = (EncoderActor(SOURCE, codec, with_dense=False, cache=cache) for _ in range(2))
    expected = [plain(block) for block in blocks(0, 1)]
    for actor in (first, later):
        for block, wanted in zip(blocks(5, 1), expected, strict=True):  # one view: every epoch is the same
            got = actor(block)
            assert_same({**got, c.EPOCH: wanted[c.EPOCH]}, wanted)
    assert encoded[2:4] == [(2, True), (2, True)]
    assert encoded[4:] == ([(2, False), (2, False)] if maps == "sam" else [])
    assert later.cache is not None
    assert (later.cache.num_hits, later.cache.num_misses) == (4, 0)
    features = c.columns_to_features([got], torch.float32)
    assert features.source.dtype == codec


def test_other_pixels_encoders_and_codecs_find_nothing_of_each_other(tmp_path: Path, blocks: Any) -> None:
    cache = CacheOptions(address=str(tmp_path / "cache"), num_views=2)
    EncoderActor(SOURCE, with_dense=False, cache=cache)(blocks(0, 2)[0])
    again = EncoderActor(SOURCE, with_dense=False, cache=cache)
    assert again.cache is not None
    again(blocks(1, 2)[0])  # the second view
    assert (again.cache.num_hits, again.cache.num_misses) == (0, 2)
    again(blocks(2, 2)[0])  # the first one
    assert (again.cache.num_hits, again.cache.num_misses) == (2, 2)
    other_codec = EncoderActor(SOURCE, "bfloat16", with_dense=False, cache=cache)
    other_codec(blocks(0, 2)[0])
    assert other_codec.cache is not None
    assert other_codec.cache.num_hits == 0
    other = EncoderActor(SOURCE, with_dense=False)
    with torch.no_grad():
        next(other.encoders.clip.parameters()).add_(1e-3)
    assert other.encoders.key != again.encoders.key


def test_a_damaged_entry_is_named_and_made_anew(tmp_path: Path, blocks: Any, caplog: pytest.LogCaptureFixture) -> None:
    cache = CacheOptions(address=str(tmp_path / "cache"))
    block = blocks(0, 1)[0]
    expected = EncoderActor(SOURCE, with_dense=False, cache=cache)(block)
    first, second = sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    first.write_bytes(first.read_bytes()[:-7])
    second.write_bytes(b"")
    actor = EncoderActor(SOURCE, with_dense=False, cache=cache)
    with caplog.at_level(logging.WARNING):
        assert_same(actor(block), expected)
    assert first.name in caplog.text
    assert second.name in caplog.text
    assert_same(actor(block), expected)
    assert actor.cache is not None
    assert actor.cache.num_hits == 2


@pytest.mark.parametrize("maps", ["all", "sam"])
def test_encoder_batches_of_a_block_are_found_or_encoded_each_for_itself(
    tmp_path: Path, blocks: Any, encoded: list[tuple[int, bool]], maps: Any
) -> None:
    cache = CacheOptions(address=str(tmp_path / "cache"), maps=maps)
    first, second = blocks(0, 1)
    whole = {name: np.concatenate([first[name], second[name]]) for name in first}
    expected = EncoderActor(SOURCE, "uint8", with_dense=False, encoder_batch=2)(whole)
    EncoderActor(SOURCE, "uint8", with_dense=False, cache=cache)(second)
    encoded.clear()
    again = EncoderActor(SOURCE, "uint8", with_dense=False, cache=cache, encoder_batch=2)
    assert_same(again(whole), expected)
    assert encoded == ([(2, True), (2, False)] if maps == "sam" else [(2, True)])
    assert again.cache is not None
    assert (again.cache.num_hits, again.cache.num_misses) == (2, 2)


def entry(value: int) -> dict[str, np.ndarray[Any, Any]]:
    return {"sam": np.full(1000, value, dtype=np.float32)}


def test_a_budget_is_kept_by_removing_foreign_entries_first_and_then_by_taking_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = CacheOptions(address=str(tmp_path), budget_gb=10 * 4200 / 2**30)
    old = FeatureCache(CacheOptions(address=str(tmp_path)), "old encoders")
    for number in range(6):
        old.write(f"{old.folder}/00/{number}", entry(number))
        os.utime(tmp_path / old.folder / "00" / str(number), (number, number))
    new = FeatureCache(options, "new encoders")
    with caplog.at_level(logging.WARNING):
        for number in range(20):
            new.write(f"{new.folder}/00/{number}", entry(number))
    kept_old = [number for number in range(6) if (tmp_path / old.folder / "00" / str(number)).exists()]
    kept_new = [number for number in range(20) if new.read(f"{new.folder}/00/{number}") is not None]
    assert kept_old == []
    assert kept_new == list(range(len(kept_new)))
    assert 8 <= len(kept_new) <= 10
    assert "is full" in caplog.text
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 10 * 4200


def test_memory_addresses_hold_a_cache_too() -> None:
    options = CacheOptions(address="memory://features", budget_gb=1.0)
    cache = FeatureCache(options, "x")
    assert cache.read(f"{cache.folder}/00/a") is None
    cache.write(f"{cache.folder}/00/a", entry(3))
    again = FeatureCache(options, "x").read(f"{cache.folder}/00/a")
    assert again is not None
    assert again["sam"].tolist() == entry(3)["sam"].tolist()


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match="num_views = 0"):
        CacheOptions(address=str(tmp_path), num_views=0)
    with pytest.raises(UserInputError, match="budget above 0"):
        CacheOptions(address=str(tmp_path), budget_gb=0)
    with pytest.raises(UserInputError, match="mode 'cache' with no cache address"):
        StreamConfig(shards="x", encoders=SOURCE, mode="cache")
    with pytest.raises(UserInputError, match="mode 'stream' with a cache address"):
        StreamConfig(shards="x", encoders=SOURCE, cache=CacheOptions(address="y"))

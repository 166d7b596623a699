"""How shards are read: small samples many at once and large ones in pieces, and what is checked on the way."""

from __future__ import annotations

import io
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from frozenseg.types import EncodedSample
from shards import DamagedShardError, ShardReader, Storage, encode_sample, write_manifest, write_shard
from shards.members import WHOLE_BYTES, cut_sample
from tests.shards.test_shards import image_bytes, make_sample, make_set


def make_large(number: int) -> EncodedSample:
    """One that is read in pieces."""
    return replace(make_sample(number), image_bytes=image_bytes(number) + bytes(WHOLE_BYTES))


@pytest.mark.parametrize("mapped", [False, True])
def test_small_and_large_samples_in_order_and_alone(tmp_path: Path, mapped: bool) -> None:
    """Small ones are read many at once and large ones in pieces: the same samples come out."""
    samples = [make_large(i) if i in (1, 5, 6) else make_sample(i) for i in range(9)]
    samples[4] = replace(samples[4], panoptic_png=samples[4].panoptic_png + bytes(WHOLE_BYTES))
    samples[6] = replace(samples[6], panoptic_png=samples[4].panoptic_png)
    samples[7] = replace(samples[7], segments=samples[7].segments * 2000)
    file = write_shard(samples, tmp_path / "x.tar")
    write_manifest(Storage(tmp_path), replace(make_set(tmp_path / "other"), files=(file,)))
    reader = pickle.loads(pickle.dumps(ShardReader(tmp_path, mapped)))
    assert reader.mapped == mapped
    assert list(reader) == samples
    assert [reader[i] for i in reversed(range(9))] == samples[::-1]
    raw = list(reader.read_raw(file))
    assert [reader.raw(i) for i in range(9)] == raw
    assert [sample.parsed("x.tar") for sample in raw] == samples
    with tarfile.open(tmp_path / "x.tar") as tar:
        member = tar.extractfile(f"{samples[1].image_id}.segments.json")
        assert member is not None
        assert raw[1].segments_json == member.read()


@pytest.mark.parametrize("is_large", [False, True])
@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("position", [3, 105, 130, 150, 160, 300, 511])
def test_every_part_of_a_header_is_checked(tmp_path: Path, position: int, mapped: bool, is_large: bool) -> None:
    """Name, mode, size, checksum, kind, and the zeros up to its end, of the first and of the last member."""
    make = make_large if is_large else make_sample
    file = write_shard([make(0), make(1), make(2)], tmp_path / "x.tar")
    write_manifest(Storage(tmp_path), replace(make_set(tmp_path / "other"), files=(file,)))
    with tarfile.open(tmp_path / "x.tar") as tar:
        offsets = [member.offset for member in tar if member.name.startswith(make(1).image_id)]
    whole = (tmp_path / "x.tar").read_bytes()
    for offset in (offsets[0], offsets[-1]):
        damaged = bytearray(whole)
        damaged[offset + position] ^= 1
        (tmp_path / "x.tar").write_bytes(bytes(damaged))
        reader = ShardReader(tmp_path, mapped)
        with pytest.raises(DamagedShardError, match=r"x\.tar"):
            reader[1]
        with pytest.raises(DamagedShardError, match=r"x\.tar"):
            list(reader)
        assert reader[0] == make(0)


def test_a_header_of_another_writer_is_read(tmp_path: Path) -> None:
    """One with an owner, whose checksum is right: slower, but the same."""
    sample = make_sample(1)
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in encode_sample(sample):
            member = tarfile.TarInfo(name)
            member.size, member.uname, member.mtime = len(data), "somebody", 1_700_000_000
            tar.addfile(member, io.BytesIO(data))
    data = (tmp_path / "x.tar").read_bytes()
    ours = write_shard([sample], tmp_path / "y.tar")
    end = ours.num_bytes - 1024
    assert cut_sample(sample.image_id, data, 0, end, "x.tar", 0).parsed("x.tar") == sample
    damaged = bytearray(data)
    damaged[265] ^= 1
    with pytest.raises(DamagedShardError, match="header at byte 0 has a wrong checksum"):
        cut_sample(sample.image_id, bytes(damaged), 0, end, "x.tar", 0)


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("size", [0, 700, 1024])
def test_a_tar_cut_short_is_named(tmp_path: Path, size: int, mapped: bool) -> None:
    file = make_set(tmp_path).files[0]
    (tmp_path / file.name).write_bytes((tmp_path / file.name).read_bytes()[:size])
    reader = ShardReader(tmp_path, mapped)
    with pytest.raises(DamagedShardError, match=file.name):
        reader[0]
    with pytest.raises(DamagedShardError, match=rf"{file.name} is damaged: {file.num_bytes} bytes expected, {size}"):
        list(reader)


def test_files_stay_open_but_not_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shards.reader.MAX_OPEN_FILES", 2)
    make_set(tmp_path, num_samples=9, samples_per_shard=2)
    reader = ShardReader(tmp_path)
    first = [reader[i] for i in range(9)]
    assert [reader[i] for i in range(9)] == first
    assert len(reader._files) == 2

"""The shard format: what is written, what is read back, and what is refused."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from frozenseg.errors import FormatVersionError, MissingPathError, UserInputError
from frozenseg.types import (
    Category,
    EncodedSample,
    ShardFile,
    ShardManifest,
    SkippedSample,
    TruthSegment,
    Vocabulary,
)
from shards import (
    BadSampleError,
    DamagedShardError,
    ShardReader,
    Storage,
    epoch_order,
    plan_shards,
    split_order,
    write_manifest,
    write_shard,
    write_shard_to,
)
from shards.__main__ import check, main

VOCABULARY = Vocabulary(
    categories=(Category(name="red button", synonyms=("scarlet knob",), dataset_id=7, color=(1, 2, 3)),), name="tiny"
)


def image_bytes(seed: int, image_format: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (13, 17, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format)
    return buffer.getvalue()


def make_sample(number: int, image_format: str = "JPEG") -> EncodedSample:
    return EncodedSample(
        image_id=f"{number:012d}",
        image_bytes=image_bytes(number, image_format),
        panoptic_png=image_bytes(number + 1000, "PNG") if number % 3 else b"",
        segments=(TruthSegment(id=5, category_id=0, is_thing=True, is_crowd=bool(number % 2), area=11),),
        file_name=f"größe/{number}.jpg",
    )


def make_set(folder: Path | str, num_samples: int = 7, samples_per_shard: int = 3) -> ShardManifest:
    storage = Storage(folder)
    files = tuple(
        write_shard_to(storage, plan.name, [make_sample(i) for i in plan.indices])
        for plan in plan_shards(num_samples, samples_per_shard, "tiny")
    )
    manifest = ShardManifest(
        format_version=1,
        files=files,
        columns=("jpg", "panoptic.png", "segments.json"),
        vocabulary=VOCABULARY,
        vocabulary_hash=VOCABULARY.content_hash,
        source={"kind": "test"},
        skipped=(SkippedSample(image_id="bad", reason="why"),),
    )
    write_manifest(storage, manifest)
    return manifest


@pytest.mark.parametrize("address", ["local", "memory://shards-roundtrip"])
def test_what_is_written_is_read_back(tmp_path: Path, address: str) -> None:
    address = str(tmp_path) if address == "local" else address
    manifest = make_set(address)
    reader = ShardReader(address)
    assert reader.manifest == manifest
    assert len(reader) == 7
    order = epoch_order(7, 0, -1)
    assert list(reader) == [make_sample(int(i)) for i in order]
    assert [reader[i] for i in range(7)] == list(reader)
    assert [reader[reader.index_of(f"{i:012d}")] for i in range(7)] == [make_sample(i) for i in range(7)]
    for file in manifest.files:
        reader.verify(file)
    with pytest.raises(UserInputError, match="no image with the id 'x'"):
        reader.index_of("x")
    with pytest.raises(IndexError):
        reader[7]


def test_equal_samples_give_equal_bytes_and_only_the_final_name_is_left(tmp_path: Path) -> None:
    first = write_shard([make_sample(i) for i in range(4)], tmp_path / "a" / "x.tar")
    second = write_shard([make_sample(i) for i in range(4)], tmp_path / "b" / "x.tar")
    assert first == second
    data = (tmp_path / "a" / "x.tar").read_bytes()
    assert hashlib.sha256(data).hexdigest() == first.sha256
    assert len(data) == first.num_bytes
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["x.tar"]


# webdataset leaves closing the tar to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_tar_and_webdataset_read_it_without_us(tmp_path: Path) -> None:
    samples = [make_sample(i, "PNG" if i == 2 else "JPEG") for i in range(3)]
    write_shard(samples, tmp_path / "x.tar")
    with tarfile.open(tmp_path / "x.tar") as tar:
        names = tar.getnames()
        assert names[:2] == ["000000000000.jpg", "000000000000.segments.json"]
        member = tar.extractfile("000000000001.panoptic.png")
        assert member is not None
        assert member.read() == samples[1].panoptic_png
    listing = subprocess.run(["tar", "tf", tmp_path / "x.tar"], capture_output=True, check=True, text=True)
    assert listing.stdout.split() == names
    found = list(webdataset.WebDataset(str(tmp_path / "x.tar"), shardshuffle=False))
    assert [s["__key__"] for s in found] == [s.image_id for s in samples]
    assert [s.get("jpg", s.get("png")) for s in found] == [s.image_bytes for s in samples]
    assert json.loads(found[1]["segments.json"])["segments"][0]["area"] == 11


def _flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0xFF
    path.write_bytes(bytes(data))


def _damage_cases(path: Path, kind: str) -> None:
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-700])
    elif kind == "missing":
        path.unlink()
    elif kind == "content":
        _flip(path, 600)
    else:
        _flip(path, 130)


@pytest.mark.parametrize("kind", ["truncated", "missing", "content", "header"])
def test_a_damaged_shard_is_named(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = make_set(tmp_path)
    victim = manifest.files[1]
    _damage_cases(tmp_path / victim.name, kind)
    reader = ShardReader(tmp_path)
    with pytest.raises(DamagedShardError, match=victim.name):
        reader.verify(victim)
    if kind != "content":  # only the digest can tell
        with pytest.raises(DamagedShardError, match=victim.name):
            list(reader.read(victim))
    assert check(str(tmp_path)) == 1
    output = capsys.readouterr()
    assert victim.name in output.err
    assert "1 damaged" in output.out


def test_a_single_read_of_another_samples_bytes_is_refused(tmp_path: Path) -> None:
    manifest = make_set(tmp_path)
    first, last = manifest.files[0], manifest.files[1]
    (tmp_path / first.name).write_bytes((tmp_path / last.name).read_bytes())
    with pytest.raises((DamagedShardError, MissingPathError), match=first.name):
        ShardReader(tmp_path)[0]


def _edit(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"format_version": 2}, FormatVersionError, "format version 2; this code reads version 1"),
        ({"files": [{"name": "x"}]}, UserInputError, "damaged or incomplete"),
        ({"vocabulary_hash": "0"}, UserInputError, "does not have the hash"),
    ],
)
def test_a_manifest_we_cannot_trust_is_refused(
    tmp_path: Path, changes: dict[str, object], error: type[Exception], message: str
) -> None:
    make_set(tmp_path)
    _edit(tmp_path, **changes)
    with pytest.raises(error, match=message):
        ShardReader(tmp_path)


def test_an_unfinished_set_and_no_set_are_refused(tmp_path: Path) -> None:
    make_set(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(MissingPathError, match="no finished shard set"):
        ShardReader(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserInputError, match="not the manifest"):
        ShardReader(tmp_path)


@pytest.mark.parametrize("image_id", ["a.b", "a/b", "", "ü", "x" * 73])
def test_an_id_the_format_cannot_hold_is_refused_and_nothing_is_left(tmp_path: Path, image_id: str) -> None:
    sample = EncodedSample(image_id=image_id, image_bytes=image_bytes(0))
    with pytest.raises(BadSampleError, match="image id"):
        write_shard([make_sample(0), sample], tmp_path / "x.tar")
    assert list(tmp_path.iterdir()) == []


def test_no_image_and_a_double_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSampleError, match=r"image 'a': expected a JPEG.*<htm"):
        write_shard([EncodedSample(image_id="a", image_bytes=b"<html>")], tmp_path / "x.tar")
    with pytest.raises(BadSampleError, match="'000000000001' occurs twice"):
        write_shard([make_sample(0), make_sample(1), make_sample(1)], tmp_path / "x.tar")
    assert list(tmp_path.iterdir()) == []


def test_an_unusable_address_is_one_line() -> None:
    with pytest.raises(UserInputError, match="nosuch://x"):
        Storage("nosuch://x")


def test_check_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    make_set(tmp_path / "good")
    make_set(tmp_path / "bad")
    (tmp_path / "bad" / "tiny-000000.tar").unlink()
    for folder, code, text in [
        ("good", 0, "0 damaged"),
        ("bad", 1, "tiny-000000.tar is missing"),
        ("none", 2, "no finished shard set"),
    ]:
        monkeypatch.setattr(sys, "argv", ["shards", "check", str(tmp_path / folder)])
        assert main() == code
        output = capsys.readouterr()
        assert text in output.out + output.err


FROZEN_ORDER = [2, 0, 7, 5, 4, 6, 1, 3, 8, 9]
FROZEN_HASH = "36a10c8a4a79442a"


def test_order_is_a_permutation_fixed_for_ever() -> None:
    order = epoch_order(1000, 3, 2)
    assert sorted(order) == list(range(1000))
    # Written down, because a resumed run must meet the same order in every later version.
    assert epoch_order(10, 0, 0).tolist() == FROZEN_ORDER
    assert hashlib.sha256(order.astype("<i8").tobytes()).hexdigest()[:16] == FROZEN_HASH
    assert epoch_order(1000, 3, 3).tolist() != order.tolist()
    assert epoch_order(1000, 4, 2).tolist() != order.tolist()
    assert epoch_order(0, 0, 0).tolist() == []
    # No trace of the original neighbourhood: neighbours are as far apart as in a random permutation (n / 3).
    assert 300 < np.abs(np.diff(order)).mean() < 370


@pytest.mark.parametrize("num_readers", [1, 2, 3, 7])
def test_any_number_of_readers_reads_the_same_order(num_readers: int) -> None:
    order = epoch_order(20, 5, 1)
    parts = [split_order(order, r, num_readers) for r in range(num_readers)]
    merged = [int(part[i]) for i in range(len(parts[0])) for part in parts if i < len(part)]
    assert merged == order.tolist()
    with pytest.raises(UserInputError, match="reader 7 of 7"):
        split_order(order, 7, 7)


@pytest.mark.parametrize(("num_samples", "per_shard"), [(0, 3), (1, 3), (7, 3), (9, 3), (10, 100)])
def test_plan_deals_every_sample_once(num_samples: int, per_shard: int) -> None:
    plans = plan_shards(num_samples, per_shard, "coco-train")
    assert sorted(i for plan in plans for i in plan.indices) == list(range(num_samples))
    assert all(1 <= len(plan.indices) <= per_shard for plan in plans)
    assert [plan.name for plan in plans[:2]] == ["coco-train-000000.tar", "coco-train-000001.tar"][: len(plans)]
    assert plans == plan_shards(num_samples, per_shard, "coco-train")
    with pytest.raises(UserInputError, match="at least 1"):
        plan_shards(3, 0, "x")


def test_a_file_record_is_consistent(tmp_path: Path) -> None:
    file: ShardFile = make_set(tmp_path).files[0]
    record = json.loads((tmp_path / "manifest.json").read_text())
    record["files"][0]["sample_offsets"].pop()
    (tmp_path / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(UserInputError, match=f"{file.name}.*offsets"):
        ShardReader(tmp_path)


def test_leftovers_of_killed_writers_are_no_files_and_can_be_swept(tmp_path: Path) -> None:
    make_set(tmp_path)
    (tmp_path / ".tmp-abc").write_bytes(b"half a tar")
    storage = Storage(tmp_path)
    assert ".tmp-abc" not in storage.list_names()
    assert check(str(tmp_path)) == 0
    storage.remove_temporary()
    assert not (tmp_path / ".tmp-abc").exists()
    assert check(str(tmp_path)) == 0

"""Sharding a data set: what a rerun does, what is refused, what is left out."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

import pipelines.shard
from frozenseg.data import CocoPanoptic, decode_annotation
from frozenseg.data.layouts import open_dataset
from frozenseg.errors import SkippedShareError, UserInputError
from pipelines.shard import ShardJob, ShardOptions, ShardResult, shard_coco, write_job
from shards import ShardReader
from shards.__main__ import check
from tests.data.releases import write_release

MakeCoco = Callable[..., CocoPanoptic]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs the tasks here, and notes their names: what the tasks do is the same, and Ray starts slowly."""
    names: list[str] = []

    def run(jobs: Sequence[ShardJob]) -> Iterable[ShardResult]:
        for job in jobs:
            names.append(job.plan.name)
            yield write_job(job)

    monkeypatch.setattr(pipelines.shard, "_run", run)
    return names


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_ray_writes_what_one_process_writes(
    make_coco: MakeCoco, tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_coco(7)
    report = shard_coco(source, ShardOptions(to=str(tmp_path / "ray"), samples_per_shard=4))
    assert report.num_written == 2
    assert check(str(tmp_path / "ray")) == 0
    reader = ShardReader(tmp_path / "ray")
    found = sorted(reader, key=lambda sample: sample.image_id)
    assert found == [source[i] for i in range(7)]
    assert reader.manifest.vocabulary == source.vocabulary
    assert reader.manifest.columns == ("jpg", "panoptic.png", "segments.json")
    monkeypatch.setattr(pipelines.shard, "_run", lambda jobs: map(write_job, jobs))
    shard_coco(source, ShardOptions(to=str(tmp_path / "plain"), samples_per_shard=4))
    assert contents(tmp_path / "ray") == contents(tmp_path / "plain")


def test_a_rerun_does_only_what_is_missing(make_coco: MakeCoco, tmp_path: Path, in_process: list[str]) -> None:
    source, options = make_coco(9), ShardOptions(to=str(tmp_path / "out"), samples_per_shard=2)
    shard_coco(source, options)
    first = contents(tmp_path / "out")
    assert len(in_process) == 5
    in_process.clear()
    assert shard_coco(source, options).num_written == 0
    (tmp_path / "out" / "shard-000003.tar").unlink()
    (tmp_path / "out" / "shard-000001.tar").write_bytes(b"torn")
    shard_coco(source, options)
    assert in_process == ["shard-000001.tar", "shard-000003.tar"]
    assert contents(tmp_path / "out") == first


def test_a_killed_run_is_resumed(make_coco: MakeCoco, tmp_path: Path, in_process: list[str]) -> None:
    source, options = make_coco(9), ShardOptions(to=str(tmp_path / "out"), samples_per_shard=2)
    folder = tmp_path / "out"

    def die_after_two(jobs: Sequence[ShardJob]) -> Iterable[ShardResult]:
        for job in jobs[:2]:
            yield write_job(job)
        # a third tar got its name, and the process died before its record was written
        (folder / jobs[2].plan.name).write_bytes(b"whatever")
        raise KeyboardInterrupt

    whole = pipelines.shard._run
    pipelines.shard._run = die_after_two
    with pytest.raises(KeyboardInterrupt):
        shard_coco(source, options)
    pipelines.shard._run = whole
    with pytest.raises(UserInputError, match="no finished shard set"):
        ShardReader(folder)
    shard_coco(source, options)
    assert in_process == ["shard-000002.tar", "shard-000003.tar", "shard-000004.tar"]
    assert check(str(folder)) == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "manifest.json",
        *(f"shard-{i:06d}.tar" for i in range(5)),
    ]


@pytest.mark.parametrize("finished", [True, False])
def test_a_changed_source_or_setting_is_refused(
    make_coco: MakeCoco, tmp_path: Path, in_process: list[str], finished: bool
) -> None:
    source, options = make_coco(4), ShardOptions(to=str(tmp_path / "out"), samples_per_shard=2)
    shard_coco(source, options)
    if not finished:
        pipelines.shard._agree_on_settings(
            pipelines.shard.Storage(tmp_path / "out"), {**pipelines.shard.describe(source, options)}, options
        )
    with pytest.raises(UserInputError, match="different: seed;"):
        shard_coco(source, ShardOptions(to=str(tmp_path / "out"), samples_per_shard=2, seed=1))
    image = Path(source.image_dir) / "2.jpg"
    image.write_bytes(image.read_bytes() + b"x")
    with pytest.raises(UserInputError, match="different: fingerprint;"):
        shard_coco(source, options)
    report = shard_coco(source, ShardOptions(to=str(tmp_path / "out"), samples_per_shard=2, overwrite=True))
    assert report.num_written == 2
    reader = ShardReader(tmp_path / "out")
    assert reader[reader.index_of("2")].image_bytes.endswith(b"x")


def test_unusable_samples_are_counted_named_and_limited(
    make_coco: MakeCoco, tmp_path: Path, in_process: list[str]
) -> None:
    source = make_coco(6)
    (Path(source.image_dir) / "1.jpg").unlink()
    (Path(source.image_dir) / "3.jpg").write_bytes(b"\xff\xd8\xff but no more")
    (Path(source.panoptic_dir) / "4.png").write_bytes((Path(source.image_dir) / "0.jpg").read_bytes())
    out = tmp_path / "out"
    with pytest.raises(SkippedShareError, match="3 of 6 samples cannot be used"):
        shard_coco(source, ShardOptions(to=str(out), samples_per_shard=2, max_skipped_share=0.4))
    assert not (out / "manifest.json").exists()
    manifest = shard_coco(source, ShardOptions(to=str(out), samples_per_shard=2, max_skipped_share=0.5)).manifest
    assert sorted(skipped.image_id for skipped in manifest.skipped) == ["1", "3", "4"]
    assert sorted(sample.image_id for sample in ShardReader(out)) == ["0", "2", "5"]
    assert check(str(out)) == 0
    # Redoing a tar keeps the list of what is not in it.
    os.unlink(out / "shard-000000.tar")
    again = shard_coco(source, ShardOptions(to=str(out), samples_per_shard=2, max_skipped_share=0.5)).manifest
    assert again == manifest


def test_the_size_target_decides_how_many_samples_a_tar_holds(
    make_coco: MakeCoco, tmp_path: Path, in_process: list[str]
) -> None:
    source = make_coco(10)
    manifest = shard_coco(source, ShardOptions(to=str(tmp_path / "out"), shard_bytes=20_000)).manifest
    assert len(manifest.files) > 1
    assert all(8_000 < file.num_bytes < 32_000 for file in manifest.files)


@pytest.mark.parametrize("name", ["own-semantic", "own-instances", "cityscapes-instances", "ade20k-panoptic"])
def test_named_data_sets_travel_and_become_shards(tmp_path: Path, in_process: list[str], name: str) -> None:
    write_release(name, tmp_path / "data")
    source = pickle.loads(pickle.dumps(open_dataset(name, tmp_path / "data")))
    shard_coco(source, ShardOptions(to=str(tmp_path / "out")))
    assert check(str(tmp_path / "out")) == 0
    reader = ShardReader(str(tmp_path / "out"))
    assert reader.manifest.vocabulary.content_hash == source.vocabulary.content_hash
    stored, sample = decode_annotation(reader[0]), decode_annotation(source[0])
    assert stored.segments == sample.segments
    assert (stored.segment_ids == sample.segment_ids).all()
    assert shard_coco(source, ShardOptions(to=str(tmp_path / "out"))).num_written == 0

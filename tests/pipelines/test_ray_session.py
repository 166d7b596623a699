"""Plans that can never be scheduled are refused at start; sizes and progress lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from frozenseg.errors import UserInputError
from pipelines.progress import StageProgress
from pipelines.ray_session import Need, RayOptions, check_schedulable, start
from pipelines.units import parse_bytes

WORKERS = Need(name="train worker", count=2, cpus=1)


@pytest.mark.parametrize(
    ("needs", "nodes", "message"),
    [
        ([WORKERS], [{"CPU": 2.0}], None),
        ([WORKERS, Need(name="encoder", cpus=0.5)], [{"CPU": 2.5}], None),
        ([WORKERS, Need(name="encoder", cpus=0.5)], [{"CPU": 2.0}], "0.5 CPUs are missing"),
        ([Need(name="encoder", cpus=0.5, gpus=1)], [{"CPU": 2.0}], "1 GPUs are missing"),
        ([Need(name="encoder", count=2, cpus=1, gpus=1)], [{"CPU": 8.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 1.0}], None),
        ([Need(name="trainer", cpus=4)], [{"CPU": 3.0}, {"CPU": 3.0}], r"no node has room for trainer \(4 CPU\)"),
        # The small ones fit only when the large one is placed first.
        ([Need(name="a", count=2), Need(name="b", cpus=2)], [{"CPU": 2.0}, {"CPU": 2.0}], None),
        ([Need(name="free", cpus=0)], [{"CPU": 0.0}], None),
        ([Need(name="trainer", resource="trainer")], [{"CPU": 8.0}], "1 trainers are missing"),
        ([Need(name="trainer", resource="trainer")], [{"CPU": 8.0, "trainer": 1.0}], None),
        # One node has the CPUs, the other the group's own resource.
        ([Need(name="a", cpus=4, resource="enc")], [{"CPU": 4.0}, {"CPU": 1.0, "enc": 1.0}], "no node has room"),
        ([], [], None),
    ],
)
def test_plans_are_held_against_the_nodes(
    needs: list[Need], nodes: list[dict[str, float]], message: str | None
) -> None:
    if message is None:
        check_schedulable(needs, nodes)
    else:
        with pytest.raises(UserInputError, match=message):
            check_schedulable(needs, nodes)


def test_start_refuses_on_a_running_session(ray_session: None) -> None:
    assert start([Need(name="worker", count=4)]) is False
    with pytest.raises(UserInputError, match=r"5 x worker \(1 CPU\).*1 CPUs are missing"):
        start([Need(name="worker", count=5)])


def test_a_cluster_that_adds_nodes_is_not_held_to_what_is_there(
    ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = [Need(name="worker", count=5)]
    with pytest.raises(UserInputError, match=r"needs --ray\.autoscales, or FROZENSEG_AUTOSCALES=1"):
        start(plan, RayOptions())
    assert start(plan, RayOptions(autoscales=True)) is False
    monkeypatch.setenv("FROZENSEG_AUTOSCALES", "1")
    assert start(plan, RayOptions()) is False


@pytest.mark.parametrize(
    ("text", "size"), [("256MB", 256 * 2**20), ("1.5 kb", 1536), ("7", 7), ("2GB", 2**31), ("3B", 3)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "1XB", "0MB"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(UserInputError, match="such as 256MB"):
        parse_bytes(text)


def test_progress_is_told_and_logged(tmp_path: Path) -> None:
    lines: list[str] = []
    progress = StageProgress(
        "encode", 10, log_path=tmp_path / "run" / "log.jsonl", interval_seconds=0, write=lines.append
    )
    progress.add(4, megabytes_per_second=2.0)
    progress.add(6)
    progress.finish()
    assert lines[0].startswith("encode: 4/10 images in 0 s")
    assert lines[0].endswith("megabytes_per_second 2\n")
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [record["done"] for record in records] == [4, 10, 10]
    assert records[0]["stage"] == "encode"
    assert records[0]["per_second"] > 0

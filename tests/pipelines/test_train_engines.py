"""DeepSpeed against the plain engine, and two workers that stop, go on, and go on as one."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("engines_script.py")


def start(*arguments: object) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-W", "ignore", str(SCRIPT), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, errors = process.communicate()
    assert process.returncode == 0, errors[-3000:]
    found = json.loads(output.strip().splitlines()[-1])
    assert isinstance(found, dict)
    return found


def train(folder: Path, engine: str, world_size: int, last_step: int) -> list[dict[str, Any]]:
    """Answers of all workers of one start."""
    processes = [start("train", folder, engine, rank, world_size, last_step) for rank in range(world_size)]
    return [answer(process) for process in processes]


@pytest.mark.slow
def test_every_zero_stage_steps_like_the_plain_engine_and_goes_on_from_its_state() -> None:
    report = answer(start("compare"))
    plain, resumed = report["torch"], report["torch resumed"]
    for kind in ("zero0", "zero1", "zero2", "zero3"):
        assert report[kind]["losses"][0] == pytest.approx(plain["losses"][0], rel=1e-5), kind
        assert report[kind]["norms"][0] == pytest.approx(plain["norms"][0], rel=1e-4), kind
        assert report[kind]["losses"][1] == pytest.approx(plain["losses"][1], rel=1e-2), kind
        assert report[f"{kind} loaded"] == 0, kind
        assert report[f"{kind} resumed"]["losses"][0] == pytest.approx(resumed["losses"][0], rel=1e-5), kind
    for kind in ("torch", "zero0", "zero1", "zero2", "zero3"):
        poisoned = report[f"{kind} poisoned"]
        assert not math.isfinite(poisoned["norm"]), kind
        assert (poisoned["changed"], poisoned["updates"]) == (0, 0), kind


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["zero1", "zero3"])
def test_two_workers_stop_and_go_on_to_the_bit_and_one_goes_on_with_the_same_samples(
    tmp_path: Path, engine: str
) -> None:
    unbroken = train(tmp_path / "unbroken", engine, 2, 5)
    first = train(tmp_path / "broken", engine, 2, 2)
    second = train(tmp_path / "broken", engine, 2, 5)
    assert first[0]["losses"] + second[0]["losses"] == unbroken[0]["losses"]
    assert second[0]["consumed"] == unbroken[0]["consumed"]
    assert [len(ids) for ids in second[0]["consumed"].values()] == [8]  # step 5 of 3 an epoch
    alone = train(tmp_path / "broken", "torch", 1, 7)
    assert len(alone[0]["losses"]) == 2
    assert alone[0]["consumed"] == {"2": [f"scene-{number}" for number in (0, 1, 2, 3)]}
    assert all(loss < unbroken[0]["losses"][0] for loss in alone[0]["losses"])

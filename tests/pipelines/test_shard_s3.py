"""Shards in an object store, with a real client and a local server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from frozenseg.data import CocoPanoptic

SHARD = "s3://bucket/shards/shard-000002.tar"


@pytest.mark.slow
def test_shards_on_s3(make_coco: Callable[..., CocoPanoptic], tmp_path: Path, s3_environment: dict[str, str]) -> None:
    """Against moto's server: 9 samples in 5 tars, from a data set that lies there, too."""
    make_coco(9)
    script = Path(__file__).with_name("s3_shards_script.py")
    command = [sys.executable, str(script), str(tmp_path / "coco")]
    finished = subprocess.run(command, env=s3_environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-3000:]
    found = json.loads(finished.stdout.splitlines()[-1])
    assert "s3://bucket/shards is no finished shard set" in found["unfinished"]
    assert found["written"] == [3, 0, 2], "a rerun does what is missing and nothing else"
    assert found["names"] == ["manifest.json", *(f"shard-{number:06d}.tar" for number in range(5))]
    same = ("same_again", "same_tars", "in_order", "one_by_one", "by_tar")
    assert {name: found[name] for name in same} == dict.fromkeys(same, True)
    assert found["check"] == 0
    assert f"{SHARD} is damaged: sha256" in found["flipped"]
    assert f"{SHARD} is damaged" in found["short"]
    assert f"{SHARD} is damaged" in found["short_sample"]
    assert f"{SHARD} is missing" in found["lost"]
    assert SHARD in found["lost_sample"]
    assert found["damaged"] == 1
    assert f"{SHARD} is missing" in finished.stderr

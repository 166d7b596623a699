"""Labeling from an object store to it, with a real client and a local server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.segmenter_pool import SegmenterSource
from tests.campaigns.label_kills import CHECKOUT, make_images
from tests.pipelines.separate_packages import folder_with


def answers(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
def test_labels_from_s3_to_s3(tiny_source: SegmenterSource, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Against moto's server: a folder, a tar and a Parquet file, each run twice."""
    packages = folder_with(Path(pytestconfig.cache.mkdir("s3")) / "packages", ("s3fs", "moto[server]"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "PYTHONPATH": f"{packages}{os.pathsep}{CHECKOUT}",
        "PYTHONWARNINGS": "ignore",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    make_images(tmp_path / "images", 5)
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not answers(port) and time.monotonic() < deadline:
            time.sleep(0.1)
        script = Path(__file__).with_name("s3_script.py")
        command = [
            sys.executable,
            str(script),
            tiny_source.model,
            str(tmp_path / "images"),
            "cat; dog,puppy; sky(stuff)",
        ]
        finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    finally:
        server.terminate()
        server.wait()
    assert finished.returncode == 0, finished.stderr[-3000:]
    found = json.loads(finished.stdout.splitlines()[-1])
    assert set(found) == {"folder", "tars", "tables"}
    for outcome in found.values():
        assert outcome["labelled"] == [5, 0]
        assert outcome["segments"] == found["folder"]["segments"]
        assert outcome["check"] == 0
        assert outcome["temporary"] == []

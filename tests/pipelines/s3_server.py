"""An S3 server of this machine for tests with a real client: moto's, with s3fs, in a folder of their own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.pipelines.separate_packages import folder_with

CHECKOUT = Path(__file__).resolve().parents[2]
START_S = 60


@contextmanager
def s3_server(packages_folder: Path) -> Iterator[dict[str, str]]:
    """Starts an empty server. Gives the environment of a process that is to use it; ours has no s3fs.

    Skips the test where packages cannot be had.
    """
    packages = folder_with(packages_folder, ("s3fs", "moto[server]"))
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
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + START_S
        while not _answers(port) and time.monotonic() < deadline:
            time.sleep(0.1)
        yield environment
    finally:
        server.terminate()
        server.wait()


def _answers(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0

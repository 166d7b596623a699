"""The demo's server: the Serve application started by its own command, asked over HTTP, and stopped."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from frozenseg.client import Client
from frozenseg.errors import FrozenSegError
from pipelines.demo.report import ServedPicture

START_SECONDS = 180.0
STOP_SECONDS = 20.0
"""A server that was started in the background of a shell is deaf to SIGINT, and is killed after this time."""


def free_port() -> int:
    """A port of the loopback interface that nobody holds at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_serve_config(path: Path, model: Path, port: int) -> None:
    """A config for `serve run` (YAML reads JSON)."""
    config = {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": port},
        "applications": [
            {
                "name": "frozenseg",
                "route_prefix": "/",
                "import_path": "serve.app:build",
                "args": {"model": str(model.resolve())},
            }
        ],
    }
    path.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


@contextmanager
def running_server(command: Sequence[str], address: str, log: Path) -> Iterator[None]:
    """Runs the server until the block ends; its output goes to `log`.

    Raises:
        FrozenSegError: it did not become ready.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            _wait_until_ready(process, address, log)
            yield
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise FrozenSegError(f"the server stopped with exit code {process.returncode}; its output is in {log}")
        try:
            if httpx.get(f"{address}/readyz", timeout=30.0).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise FrozenSegError(f"the server was not ready within {START_SECONDS:g} s; its output is in {log}")


def serve_command(config: Path) -> tuple[str, ...]:
    """`serve run CONFIG` of this environment."""
    return (str(Path(sys.executable).with_name("serve")), "run", str(config))


def ask(address: str, pictures: Sequence[Path], vocabulary: str) -> tuple[ServedPicture, ...]:
    """Each picture's overlay and what was found, by way of HTTP."""
    served = []
    with Client(address) as client, httpx.Client(base_url=address, timeout=120.0) as http:
        for picture in pictures:
            started = time.monotonic()
            result = client.segment(picture, vocabulary)
            milliseconds = 1000 * (time.monotonic() - started)
            names = tuple(sorted({segment.category or "" for segment in result.segments}))
            options = json.dumps({"vocabulary": vocabulary, "format": "overlay"})
            overlay = http.post(
                "/v1/segment", files={"image": picture.read_bytes()}, data={"options": options}
            ).raise_for_status()
            served.append(
                ServedPicture(image_id=picture.stem, overlay=overlay.content, milliseconds=milliseconds, names=names)
            )
    return tuple(served)

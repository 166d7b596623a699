"""A Ray head of a test's own, started as an administrator starts one: its own home, token, folder and ports."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

ADDRESS = "127.0.0.2"  # Ray takes 127.0.0.1 for the address of the machine's network interface
START_SECONDS = 120.0
RAY = str(Path(sys.executable).with_name("ray"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Fields: gcs: address for drivers and further nodes; dashboard: for `ray job submit`; environment: variables with
    which a process may talk to it."""

    gcs: str
    dashboard: str
    environment: dict[str, str]


@contextlib.contextmanager
def local_head(variables: Mapping[str, str]) -> Iterator[Head]:
    """Runs `ray start --head --block`, 4 CPUs and no GPU, with these environment variables; at the end it and all that
    it started are gone."""
    # Not pytest's folder: the paths of unix sockets below it may have 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="fs-head-", ignore_cleanup_errors=True) as folder:
        token = Path(folder) / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
            "HOME": folder,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "PYTHONWARNINGS": "ignore",
            "OMP_NUM_THREADS": "1",
            **variables,
        }
        gcs, dashboard, agent, client = free_ports(4)
        command = [
            RAY, "start", "--head", "--block", f"--node-ip-address={ADDRESS}", f"--port={gcs}",
            "--include-dashboard=true", f"--dashboard-host={ADDRESS}", f"--dashboard-port={dashboard}",
            f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}",
            f"--temp-dir={folder}/ray", "--object-store-memory=300000000", "--disable-usage-stats", "--num-cpus=4",
            "--num-gpus=0",
        ]  # fmt: skip
        log = Path(folder) / "head.log"
        with log.open("wb") as file:
            process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
        try:
            head = Head(gcs=f"{ADDRESS}:{gcs}", dashboard=f"http://{ADDRESS}:{dashboard}", environment=environment)
            wait_until_up(head, process, log)
            yield head
        finally:
            end(process)


def wait_until_up(head: Head, process: subprocess.Popen[bytes], log: Path) -> None:
    """Raises RuntimeError with the head's own words when it ends or does not answer in time."""
    deadline = time.monotonic() + START_SECONDS
    token = Path(head.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    request = urllib.request.Request(f"{head.dashboard}/api/version", headers={"Authorization": f"Bearer {token}"})
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise RuntimeError(f"the head did not come up:\n{log.read_text()[-3000:]}")


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a `ray start --block` and whatever is below it, and nothing else (`ray stop` would end every Ray here)."""
    below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    for left in [*psutil.wait_procs(below, timeout=10)[1], *([process] if process.poll() is None else [])]:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()
    process.wait()


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind((ADDRESS, 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()

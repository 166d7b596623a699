"""`serve deploy serve/config.yaml` as its page says, on a Ray head of its own with a dashboard."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path

import httpx
import pytest
import yaml

from tests.serve.conftest import free_port, needs_serve
from tests.serve.test_deployment import CHECKOUT, CONFIG

pytestmark = [pytest.mark.slow, needs_serve]
WAIT_S = 240
# A head and replicas with room for a second version beside the first, small enough for a test.
SMALL = {"min_replicas": 1, "max_replicas": 1, "num_cpus": 0.25}
PARTS = ("ingress", "encoders", "decoder", "sam_masks")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONWARNINGS": "ignore", "RAY_AUTH_MODE": "disabled"}


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    """The address that `serve deploy` talks to."""
    port = free_port()
    ports = [
        f"--{name}={free_port()}"
        for name in (
            *("port", "ray-client-server-port", "metrics-export-port"),
            *("dashboard-agent-listen-port", "dashboard-agent-grpc-port"),
        )
    ]
    command = [
        *("ray", "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=4", "--num-gpus=0"),
        *("--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={port}", *ports),
        "--object-store-memory=209715200",
    ]
    bin_folder = Path(sys.executable).parent
    with tempfile.TemporaryDirectory(prefix="fs-ray-", ignore_cleanup_errors=True) as folder:
        head = subprocess.Popen(
            [str(bin_folder / command[0]), *command[1:], f"--temp-dir={folder}"],
            env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        address = f"http://127.0.0.1:{port}"
        try:
            wait(lambda: answers(f"{address}/api/version"), "the dashboard")
            yield address
        finally:
            head.terminate()
            try:
                head.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(head.pid, signal.SIGKILL)
                head.wait()


def answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=30).status_code == HTTPStatus.OK
    except httpx.HTTPError:
        return False


def wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.5)


def serve(*arguments: str, dashboard: str) -> str:
    result = subprocess.run(
        [str(Path(sys.executable).parent / "serve"), *arguments, "-a", dashboard],
        capture_output=True, text=True, check=True, env=environment(), cwd=CHECKOUT,
    )  # fmt: skip
    return result.stdout


def test_our_file_deploys_and_a_misspelt_argument_leaves_it_running(dashboard: str, tmp_path: Path) -> None:
    content = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    port = free_port()
    content["http_options"].update(host="127.0.0.1", port=port)
    content["applications"][0]["args"].update({"device": "cpu", **dict.fromkeys(PARTS, SMALL)})
    file = tmp_path / "config.yaml"

    def deploy() -> None:
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
        serve("deploy", str(file), dashboard=dashboard)

    deploy()
    address = f"http://127.0.0.1:{port}"
    wait(lambda: answers(f"{address}/readyz"), "the application")

    content["applications"][0]["args"]["thraeds"] = 2
    deploy()
    wait(lambda: "DEPLOY_FAILED" in serve("status", dashboard=dashboard), "the refusal")
    said = serve("status", dashboard=dashboard)
    assert "unknown key 'thraeds'" in said
    assert answers(f"{address}/readyz"), "what ran before runs on"

"""A Ray head of a test's own, started as an administrator starts one: its own home, token, folder and ports."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE

ADDRESS = "127.0.0.2"  # Ray takes 127.0.0.1 for the address of the machine's network interface
START_SECONDS = 120.0
AUTOSCALING = {
    "RAY_FAKE_CLUSTER": "1",
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_enable_autoscaler_v2": "1",
    # The autoscaler knows a node by the id that its provider gave it.
    "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
}
NOTHING_TO_DO = (
    "setup_commands", "head_setup_commands", "worker_setup_commands", "initialization_commands",
    "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude", "rsync_filter",
)  # fmt: skip
"""Keys of a cluster file that Ray wants to see; a node on this machine needs nothing of the kind."""
RAY = str(Path(sys.executable).with_name("ray"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Fields: gcs: address for drivers and further nodes; dashboard: for `ray job submit`; environment: variables with
    which a process may talk to it."""

    gcs: str
    dashboard: str
    environment: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeGroup:
    """Nodes that are added when work asks for them, `most` at most, each with `resources` under Ray's names."""

    name: str
    most: int
    resources: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node of a cluster: its resources under Ray's names, and whether it is there now."""

    resources: Mapping[str, float]
    is_alive: bool


@contextlib.contextmanager
def local_head(variables: Mapping[str, str], on_demand: Sequence[NodeGroup] = ()) -> Iterator[Head]:
    """Runs `ray start --head --block` with these environment variables; at the end it and all that it started are gone.

    It has 4 CPUs and no GPU. With `on_demand` it has none, and Ray's autoscaler adds nodes of these groups on this
    machine, by Ray's own provider for trying autoscaling out.
    """
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
            **(AUTOSCALING | {"PYTHONPATH": str(Path(__file__).parent)} if on_demand else {}),
            **variables,
        }
        gcs, dashboard, agent, client = free_ports(4)
        command = [
            RAY, "start", "--head", "--block", f"--node-ip-address={ADDRESS}", f"--port={gcs}",
            "--include-dashboard=true", f"--dashboard-host={ADDRESS}", f"--dashboard-port={dashboard}",
            f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}",
            f"--temp-dir={folder}/ray", "--object-store-memory=300000000", "--disable-usage-stats", "--num-gpus=0",
        ]  # fmt: skip
        if on_demand:
            config = Path(folder) / "autoscaling.json"
            config.write_text(json.dumps(autoscaling_config(on_demand, f"{ADDRESS}:{gcs}")))
            command += [f"--autoscaling-config={config}", "--num-cpus=0"]
        else:
            command += ["--num-cpus=4"]
        log = Path(folder) / "head.log"
        with log.open("wb") as file:
            process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
        try:
            head = Head(gcs=f"{ADDRESS}:{gcs}", dashboard=f"http://{ADDRESS}:{dashboard}", environment=environment)
            wait_until_up(head, process, log)
            yield head
        finally:
            end(process)


def autoscaling_config(groups: Sequence[NodeGroup], gcs: str) -> dict[str, object]:
    """As of `ray up`, for nodes that are processes on this machine."""
    types: dict[str, object] = {
        group.name: {"resources": dict(group.resources), "node_config": {}, "min_workers": 0, "max_workers": group.most}
        for group in groups
    }
    types[FAKE_HEAD_NODE_TYPE] = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    return {
        "cluster_name": "on-demand",
        "max_workers": sum(group.most for group in groups),
        "idle_timeout_minutes": 0.5,
        "upscaling_speed": 10,
        "provider": {
            # Named by its class: the type `fake_multinode` reads a file that Ray's package lacks.
            "type": "external",
            "module": "on_demand_nodes.OnDemandNodes",
            "gcs_address": gcs,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
        },
        "auth": {"ssh_user": "nobody"},
        "available_node_types": types,
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "file_mounts": {},
        **{key: [] for key in NOTHING_TO_DO},
    }


def nodes(head: Head) -> list[Node]:
    """Every node that the cluster ever had, the head among them."""
    found = json.loads(ask(head, "/api/v0/nodes?limit=100"))["data"]["result"]["result"]
    return [Node(resources=node["resources_total"], is_alive=node["state"] == "ALIVE") for node in found]


def ask(head: Head, path: str) -> bytes:
    """The dashboard's answer. Raises OSError while there is none."""
    token = Path(head.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    request = urllib.request.Request(f"{head.dashboard}{path}", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return bytes(answer.read())


def wait_until_up(head: Head, process: subprocess.Popen[bytes], log: Path) -> None:
    """Raises RuntimeError with the head's own words when it ends or does not answer in time."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            ask(head, "/api/version")
        except OSError:  # of which urllib's errors are
            time.sleep(0.5)
        else:
            return
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

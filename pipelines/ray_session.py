"""Starts or joins Ray, and refuses a plan that the cluster can never schedule.

Ray waits for ever, silently, for resources that don't exist; a plan is therefore held against the cluster before any
work starts. This module imports ray late: a local session must decide on authentication before the first import.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from frozenseg.errors import UserInputError
from pipelines.session_folder import session_folder

NUM_START_ATTEMPTS = 3
AUTOSCALES_VARIABLE = "FROZENSEG_AUTOSCALES"


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """`count` workers or actors called `name`, each holding `cpus`, `gpus` and one of the cluster's own `resource`, if
    that is named, for the whole run."""

    name: str
    count: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    resource: str | None = None

    @property
    def amounts(self) -> dict[str, float]:
        """What each holds, under Ray's names."""
        return {"CPU": self.cpus, "GPU": self.gpus} | ({self.resource: 1.0} if self.resource else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class RayOptions:
    """Where to run.

    Fields: address: of a cluster, `auto` for the one this job was submitted to, None for RAY_ADDRESS or else a session
    of our own on this machine; num_cpus: logical CPUs of such a session, None for what the plan needs and at least the
    machine's count (they are a budget for Ray's scheduler, not cores: every worker here runs one torch thread);
    num_gpus: None for what the machine has; object_store_mb: shared memory for data on its way; dashboard: costs a few
    seconds and 0.4 GB, and without it Ray Train fills the log with errors about the missing dashboard; autoscales: the
    cluster adds nodes on demand, so that a plan larger than what is there now is not refused; it is on where Ray is
    started with FROZENSEG_AUTOSCALES=1, as our cluster files do.
    """

    address: str | None = None
    num_cpus: int | None = None
    num_gpus: int | None = None
    object_store_mb: int = 1000
    dashboard: bool = True
    autoscales: bool = field(default_factory=lambda: os.environ.get(AUTOSCALES_VARIABLE) == "1")


def check_schedulable(needs: Sequence[Need], nodes: Sequence[Mapping[str, float]]) -> None:
    """Raises UserInputError when the needs don't fit the nodes' resources (`{"CPU": 8.0, "GPU": 1.0}` per node).

    The needs are placed largest first on the first node with room, so a plan that passes can really be scheduled.
    """
    names = list(dict.fromkeys(name for need in needs for name in need.amounts))
    total = {name: sum(node.get(name, 0.0) for node in nodes) for name in names}
    wanted = {name: sum(need.count * need.amounts.get(name, 0.0) for need in needs) for name in names}
    listing = ", ".join(f"{n.count} x {n.name} ({_amount(n)})" for n in needs)
    for name, amount in wanted.items():
        if amount > total[name] + 1e-6:
            raise UserInputError(
                f"this plan cannot be scheduled: it holds {amount:g} {name}s at once ({listing}), the cluster has "
                f"{total[name]:g}: {amount - total[name]:g} {name}s are missing"
            )
    free = [{name: node.get(name, 0.0) for name in names} for node in nodes]
    each = sorted((n for n in needs for _ in range(n.count)), key=lambda n: (n.gpus, n.cpus), reverse=True)
    for need in each:
        fitting = (f for f in free if all(f[name] + 1e-6 >= amount for name, amount in need.amounts.items()))
        room = next(fitting, None)
        if room is None:
            raise UserInputError(
                f"this plan cannot be scheduled: no node has room for {need.name} ({_amount(need)}) beside the rest of "
                f"the plan ({listing}); the nodes have {', '.join(_node(node) for node in nodes)}"
            )
        for name, amount in need.amounts.items():
            room[name] -= amount


def _amount(need: Need) -> str:
    return " + ".join(f"{amount:g} {name}" for name, amount in need.amounts.items() if amount) or "nothing"


def _node(node: Mapping[str, float]) -> str:
    return f"{node.get('CPU', 0):g} CPU + {node.get('GPU', 0):g} GPU"


@contextmanager
def session(needs: Sequence[Need] = (), options: RayOptions | None = None) -> Iterator[None]:
    """`start`, and `stop` at the end unless Ray was already there before."""
    started = start(needs, options)
    try:
        yield
    finally:
        if started:
            stop()


def start(needs: Sequence[Need] = (), options: RayOptions | None = None) -> bool:
    """Joins the cluster, or starts a session of our own; then checks the plan. True when Ray was not up before.

    Raises:
        UserInputError: no cluster at the address, or a plan that can never be scheduled, naming what is missing.
    """
    options = options or RayOptions()
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        _quiet()
        _check_cluster(needs, options)
        return False
    # The worker processes' own thread pools would fight for the cores that Ray believes it deals out.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # `frozenseg.memory.keep_freed_memory` works in one arena of glibc's, from the process's start: a block of features
    # is more than any other holds, and Ray's workers have threads before any code of ours runs.
    os.environ.setdefault("MALLOC_ARENA_MAX", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    if options.address is None and "RAY_ADDRESS" not in os.environ:
        _start_local(needs, options)
    else:
        _join(options)
    _quiet()
    try:
        _check_cluster(needs, options)
    except UserInputError:
        stop()
        raise
    return True


def stop() -> None:
    """Leaves the cluster, or ends our own session."""
    import ray

    ray.shutdown()


def _join(options: RayOptions) -> None:
    import ray

    address = options.address or os.environ["RAY_ADDRESS"]
    try:
        ray.init(address=address, logging_level=logging.WARNING)
    except ConnectionError as error:
        raise UserInputError(f"no Ray cluster answers at {address!r}: {error}") from error


def refuse_early(needs: Sequence[Need], options: RayOptions) -> None:
    """What `start` would refuse after Ray is up, as far as the options alone tell: costs nothing, imports nothing.

    Raises:
        UserInputError: as `check_schedulable`.
    """
    if options.address is not None or "RAY_ADDRESS" in os.environ:
        return
    num_gpus = float("inf") if options.num_gpus is None else float(options.num_gpus)
    check_schedulable(needs, [{"CPU": float(_own_cpus(needs, options)), "GPU": num_gpus}])


def _own_cpus(needs: Sequence[Need], options: RayOptions) -> int:
    """Logical CPUs of a session of our own."""
    wanted = -(-sum(need.count * need.cpus for need in needs) // 1)
    return options.num_cpus or max(os.cpu_count() or 1, int(wanted) + 1)


def _start_local(needs: Sequence[Need], options: RayOptions) -> None:
    """A session with its own token and temporary folder: nothing in the home folder, no clash with another session."""
    refuse_early(needs, options)
    # Short, because the paths of unix sockets below it may have 107 characters at most.
    folder = session_folder("fs-ray-")
    if "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token))
    import ray

    num_cpus = _own_cpus(needs, options)
    for attempt in range(NUM_START_ATTEMPTS):
        try:
            ray.init(
                address="local",
                num_cpus=num_cpus,
                num_gpus=options.num_gpus,
                include_dashboard=options.dashboard,
                object_store_memory=options.object_store_mb * 2**20,
                _temp_dir=str(folder),
                logging_level=logging.WARNING,
            )
            return
        except Exception as error:
            # Ray gives its own processes 30 seconds, fixed, and raises a bare Exception: too few on a busy machine.
            ray.shutdown()
            if "timed out during startup" not in str(error) or attempt == NUM_START_ATTEMPTS - 1:
                raise


def _check_cluster(needs: Sequence[Need], options: RayOptions) -> None:
    import ray

    if options.autoscales:
        return
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    try:
        check_schedulable(needs, [node["Resources"] for node in nodes if node["Alive"]])
    except UserInputError as error:
        hint = (
            f"a cluster that adds nodes on demand needs --ray.autoscales, or {AUTOSCALES_VARIABLE}=1 where Ray starts"
        )
        raise UserInputError(f"{error} ({hint})") from None


def _quiet() -> None:
    """Our own lines tell the progress; Ray Data's log at INFO repeats its whole plan per run."""
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # It warns that its bars are off, which is what was asked for.
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    quiet_context(ray.data.DataContext.get_current())


def quiet_context(context: Any) -> None:
    """Sets a ray.data.DataContext to our ways: for this process, or for one data set that runs in another's process."""
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # A user's mistake that a worker finds must arrive as what it is, not wrapped into Ray's own exception.
    context.raise_original_map_exception = True

"""Rates and a cluster -> images/s, hours, bytes, cost: every stage gives a bound, and the lowest one is the pace.

The stages run at the same time, with queues between them, so over a long run the pace is that of the slowest; filling
the queues at the start is part of `start_seconds`. Assumptions, and how far they carry: docs/scaling.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from frozenseg.errors import UserInputError
from pipelines.planning.cluster import Cluster
from pipelines.planning.rates import StageRates

Mode = Literal["stream", "inline", "cache"]
MODES: tuple[Mode, ...] = ("stream", "inline", "cache")
Goal = Literal["time", "cost"]
_HOURS_PER_MONTH = 730.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Fields: num_images: of the data set; num_steps, batch_size: of the run; num_views: of an image that a cache
    keeps."""

    num_images: int
    num_steps: int
    batch_size: int
    num_views: int = 4

    @property
    def num_samples(self) -> int:
        """Images that the run trains on, each time counted."""
        return self.num_steps * self.batch_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run will take.

    Fields: mode; num_trainers; num_encoders: actors of the pool, 0 where the trainers encode; images_per_s: over the
    run, its start left out; bottleneck: the stage that sets the pace; bounds: images/s that each stage alone would
    allow; hours, cost: with the start; moved_bytes: features over the network; stored_bytes: of a cache; idle_share:
    of the trainers' time spent waiting.
    """

    mode: Mode
    num_trainers: int
    num_encoders: int
    images_per_s: float
    bottleneck: str
    bounds: tuple[tuple[str, float], ...]
    hours: float
    cost: float
    moved_bytes: float
    stored_bytes: float
    idle_share: float


def predict(cluster: Cluster, rates: StageRates, work: Workload, mode: Mode, num_encoders: int = 0) -> Plan:
    """The plan of one mode and pool size.

    Args:
        num_encoders: actors of the pool, one a GPU (one a CPU where no node has GPUs); of no meaning for `inline`.

    Raises:
        UserInputError: a pool that the cluster has no room for, or none where the mode needs one.
    """
    num_trainers = _slots(cluster.trainers.gpus, cluster.trainers.cpus) * cluster.trainers.nodes
    room = largest_pool(cluster)
    if mode == "inline":
        num_encoders = 0
    elif not 1 <= num_encoders <= room:
        raise UserInputError(f"plan: mode {mode} with {num_encoders} encoders: the cluster has room for 1 to {room}")
    if cluster.encoders.nodes == 0:
        num_trainers -= num_encoders  # they share the slots of the same nodes
    if num_trainers < 1:
        raise UserInputError("plan: expected room for at least one trainer, found trainer nodes of less than a CPU")
    first = _bounds(cluster, rates, mode, num_trainers, num_encoders, from_cache=False)
    parts = [(first, float(work.num_samples))]
    if mode == "cache":
        computed = min(work.num_samples, work.num_images * work.num_views)
        later = _bounds(cluster, rates, mode, num_trainers, num_encoders, from_cache=True)
        parts = [(first, float(computed)), (later, float(work.num_samples - computed))]
    seconds = sum(samples / min(bounds.values()) for bounds, samples in parts)
    bounds, _ = max(parts, key=lambda part: part[1] / min(part[0].values()))
    hours = (seconds + rates.start_seconds) / 3600
    stored = rates.feature_bytes * work.num_images * work.num_views if mode == "cache" else 0.0
    images_per_s = work.num_samples / seconds
    return Plan(
        mode=mode,
        num_trainers=num_trainers,
        num_encoders=num_encoders,
        images_per_s=images_per_s,
        bottleneck=min(bounds, key=lambda name: bounds[name]),
        bounds=tuple(sorted(bounds.items(), key=lambda item: item[1])),
        hours=hours,
        cost=_cost(cluster, num_encoders, hours, stored),
        moved_bytes=0.0 if mode == "inline" else rates.feature_bytes * work.num_samples,
        stored_bytes=stored,
        idle_share=max(0.0, 1 - images_per_s / (num_trainers / _busy(rates, mode))),
    )


def best_plan(
    cluster: Cluster, rates: StageRates, work: Workload, *, goal: Goal = "time", modes: tuple[Mode, ...] = MODES
) -> Plan:
    """The fastest (or cheapest) plan over the modes and all pool sizes; among equals the one with fewer encoders.

    Raises:
        UserInputError: no mode fits the cluster.
    """
    plans = [predict(cluster, rates, work, "inline")] if "inline" in modes else []
    for mode in modes:
        if mode != "inline":
            plans += [predict(cluster, rates, work, mode, size) for size in range(1, largest_pool(cluster) + 1)]
    if not plans:
        raise UserInputError(f"plan: the cluster has no room for a pool of encoders, which {' and '.join(modes)} need")
    return min(plans, key=lambda plan: (plan.hours, plan.cost) if goal == "time" else (plan.cost, plan.hours))


def largest_pool(cluster: Cluster) -> int:
    """Encoder actors that the cluster has room for beside at least one trainer."""
    if cluster.encoders.nodes:
        return cluster.encoders.nodes * _slots(cluster.encoders.gpus, cluster.encoders.cpus)
    return cluster.trainers.nodes * _slots(cluster.trainers.gpus, cluster.trainers.cpus) - 1


def _slots(gpus: int, cpus: float) -> int:
    """Workers that a node holds: one a GPU, or one a CPU where there are no GPUs."""
    return gpus if gpus else int(cpus)


def _busy(rates: StageRates, mode: Mode) -> float:
    """Seconds that one trainer itself works on an image."""
    own = rates.train_seconds + rates.receive_seconds
    return own + rates.encode_seconds if mode == "inline" else own


def _step(rates: StageRates, mode: Mode, num_trainers: int) -> float:
    """Seconds an image from one step's end to the next: those of the slowest trainer, for whom the others wait.

    Source: Blom (1958) for the largest of n normal deviates.
    """
    deviation = rates.train_deviation * rates.train_seconds
    if mode == "inline":
        deviation = math.hypot(deviation, rates.encode_deviation * rates.encode_seconds)
    largest = NormalDist().inv_cdf((num_trainers - 0.375) / (num_trainers + 0.25))
    return _busy(rates, mode) + deviation * largest


def _pool_nodes(cluster: Cluster, num_encoders: int) -> int:
    """Encoder nodes that are up: no more than the pool fills."""
    if cluster.encoders.nodes == 0:
        return 0
    return math.ceil(num_encoders / max(1, _slots(cluster.encoders.gpus, cluster.encoders.cpus)))


def _bounds(
    cluster: Cluster, rates: StageRates, mode: Mode, num_trainers: int, num_encoders: int, *, from_cache: bool
) -> dict[str, float]:
    """Images/s that each stage allows; stages that take nothing are left out."""
    readers = _reading_cpus(cluster, num_trainers, num_encoders)
    storage = cluster.storage_gbit_per_s * 1e9 / 8
    stored = rates.sample_bytes + (rates.feature_bytes if mode == "cache" else 0.0)
    seconds = {
        "trainers": _step(rates, mode, num_trainers) / num_trainers,
        "reading": rates.read_seconds / readers,
        "storage": stored / storage,
        "coordination": rates.coordinate_seconds,
    }
    if mode != "inline":
        if not from_cache:
            seconds["encoders"] = rates.encode_seconds / num_encoders
        if cluster.encoders.nodes:
            # Encoders take work as they get free, so the fullest node sends most and its link is the first to fill.
            on_one_node = min(num_encoders, _slots(cluster.encoders.gpus, cluster.encoders.cpus))
            link = cluster.encoders.bytes_per_s / cluster.encoders.nodes
            seconds["network out of the encoders"] = rates.feature_bytes * on_one_node / num_encoders / link
            seconds["network into the trainers"] = rates.feature_bytes / cluster.trainers.bytes_per_s
    return {name: 1 / value for name, value in seconds.items() if value > 0}


def _reading_cpus(cluster: Cluster, num_trainers: int, num_encoders: int) -> float:
    """CPUs of nodes that are up and that nobody else holds; each worker without a GPU holds one."""
    total = cluster.trainers.nodes * cluster.trainers.cpus + _pool_nodes(cluster, num_encoders) * cluster.encoders.cpus
    held = 0.0 if cluster.trainers.gpus else float(num_trainers)
    pool = cluster.encoders if cluster.encoders.nodes else cluster.trainers
    held += 0.0 if pool.gpus else float(num_encoders)
    return max(1.0, total - held)


def _cost(cluster: Cluster, num_encoders: int, hours: float, stored_bytes: float) -> float:
    """Of the nodes that are up, a started encoder node counting whole, and of what is stored while the run lasts."""
    per_hour = (
        cluster.head_price_per_hour
        + cluster.trainers.nodes * cluster.trainers.price_per_hour
        + _pool_nodes(cluster, num_encoders) * cluster.encoders.price_per_hour
    )
    return hours * (per_hour + stored_bytes / 1e9 * cluster.storage_price_gb_month / _HOURS_PER_MONTH)

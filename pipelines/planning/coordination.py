"""What moving a block of the feature stream costs the one process that schedules it, measured with Ray Data itself.

The stream's own graph (reading tasks, a pool of actors, a split for Ray Train) with stages that do nothing to blocks of
hardly any bytes: what is left is the scheduling, which costs the same whatever a block holds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import psutil

from frozenseg.errors import FrozenSegError
from frozenseg.inference.loading import model_folder
from pipelines.encoder_pool import EncoderSource
from pipelines.stream import encoder_pool, row_numbers
from pipelines.stream_config import StreamConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordination:
    """Seconds a block. Fields: cpu: of the scheduling process, what bounds a large pool of fast encoders; wall: by the
    clock, which the stages' own processes and other work on the machine lengthen."""

    cpu: float
    wall: float


class IdleActor:
    """An encoder that passes on what it gets."""

    def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
        return block


class Taker:
    """A process that takes blocks, as a worker of Ray Train does."""

    def __init__(self, shard: Any) -> None:
        self.blocks = iter(shard.iter_batches(batch_size=1))

    def take(self, count: int) -> float:
        """Seconds until the next `count` blocks are there."""
        started = time.perf_counter()
        for _ in range(count):
            next(self.blocks)
        return time.perf_counter() - started


def measure(num_blocks: int = 200, num_encoders: int = 2) -> Coordination:
    """Moves blocks through an idle stream, in the Ray session that this process is in. Takes some 20 seconds.

    Args:
        num_blocks: the first fifth of them is not timed.
        num_encoders: of the pool; sixteen cost the scheduling process a tenth more than four.

    Raises:
        FrozenSegError: the scheduling process is not on this machine.
    """
    import ray

    # No encoder is built, so any will do; a block is one row.
    stream = StreamConfig(
        shards="",
        encoders=EncoderSource.of_model(model_folder("miniature")),
        min_actors=num_encoders,
        max_actors=num_encoders,
        actor_cpus=0.1,
    )
    before = set(_schedulers())
    num_warm = num_blocks // 5
    images = row_numbers(num_blocks, stream).map_batches(_idle, batch_size=1, zero_copy_batch=True)
    (shard,) = encoder_pool(images, stream, IdleActor, {}).streaming_split(1, equal=True)
    taker: Any = ray.remote(Taker).options(num_cpus=0).remote(shard)
    try:
        ray.get(taker.take.remote(num_warm))
        started = {process: seconds for process, seconds in _schedulers().items() if process not in before}
        if len(started) != 1:
            raise FrozenSegError(f"expected one scheduling process of Ray Data on this machine, found {len(started)}")
        wall = ray.get(taker.take.remote(num_blocks - num_warm))
        (process,) = started
        cpu = _schedulers()[process] - started[process]
    finally:
        ray.kill(taker)
    return Coordination(cpu=cpu / (num_blocks - num_warm), wall=wall / (num_blocks - num_warm))


def _idle(block: dict[str, Any]) -> dict[str, Any]:
    return block


def _schedulers() -> dict[psutil.Process, float]:
    """Scheduling processes on this machine with their CPU seconds so far."""
    found = {}
    for process in psutil.process_iter(["cmdline", "cpu_times"]):
        if "SplitCoordinator" in " ".join(process.info["cmdline"] or []):
            times = process.info["cpu_times"]
            found[process] = float(times.user + times.system)
    return found

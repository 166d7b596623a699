"""What moving a block of the feature stream costs the one process that schedules it.

    python -m benchmarks.stream_coordination [--blocks 400] [--encoders 4]

The stream's own graph (`pipelines.stream`: reading tasks, a pool of actors, a split for Ray Train) with stages that do
nothing to blocks of hardly any bytes. Two figures: CPU seconds per block of the scheduling process
(ray::SplitCoordinator), which is what `coordinate_seconds` of the planner's rates means, times the images of a block;
and the wall time per block, which other work on the machine and the stages' own processes lengthen.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import psutil

from pipelines import ray_session
from pipelines.encoder_pool import EncoderSource
from pipelines.ray_session import RayOptions
from pipelines.stream import encoder_pool, row_numbers
from pipelines.stream_config import StreamConfig


class IdleActor:
    """An encoder that passes on what it gets."""

    def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
        return block


def _idle(block: dict[str, Any]) -> dict[str, Any]:
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


def scheduler_seconds() -> float:
    """CPU seconds so far of this session's scheduling process."""
    for process in psutil.Process().children(recursive=True):
        if "SplitCoordinator" in " ".join(process.cmdline()):
            times = process.cpu_times()
            return float(times.user + times.system)
    raise RuntimeError("no scheduling process found")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=400)
    parser.add_argument("--encoders", type=int, default=4)
    options = parser.parse_args()
    import ray

    num_warm = options.blocks // 5
    # Of the config, the graph reads the block's size and the pool's; no encoder is built.
    source = EncoderSource.of_model("frozenseg/miniature/model")
    pool = {"min_actors": options.encoders, "max_actors": options.encoders, "actor_cpus": 0.1}
    stream = StreamConfig(shards="", encoders=source, **pool)
    with ray_session.session(options=RayOptions(num_cpus=4, num_gpus=0, dashboard=False, object_store_mb=500)):
        images = row_numbers(options.blocks, stream).map_batches(_idle, batch_size=1, zero_copy_batch=True)
        (shard,) = encoder_pool(images, stream, IdleActor, {}).streaming_split(1, equal=True)
        taker: Any = ray.remote(Taker).options(num_cpus=0).remote(shard)
        ray.get(taker.take.remote(num_warm))
        num_timed = options.blocks - num_warm
        before = scheduler_seconds()
        seconds = ray.get(taker.take.remote(num_timed))
        cpu = scheduler_seconds() - before
    print(f"{1000 * cpu / num_timed:.1f} ms of the scheduling process's CPU a block")
    print(f"{1000 * seconds / num_timed:.1f} ms a block by the clock")


if __name__ == "__main__":
    main()

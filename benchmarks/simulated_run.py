"""Runs a layout of a simulated world with Ray, and says what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray

from benchmarks.simulated_actors import Coordinator, Encoders, Network, Readers, Trained, Trainers
from benchmarks.simulated_world import Layout, World
from pipelines import ray_session
from pipelines.ray_session import RayOptions

ENCODERS_PER_PROCESS = 16
_NUM_WARM_STEPS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Fields: images_per_s: from the end of the second step to the end of the last; seconds: between those; samples:
    of all blocks, sorted; peak_in_flight: most blocks between the start of reading and the end of their step;
    imports_torch: whether any process of encoders did; lateness: how much longer than asked a sleeper slept, as a
    share: a busy machine wakes sleepers late."""

    images_per_s: float
    seconds: float
    samples: tuple[int, ...]
    peak_in_flight: int
    imports_torch: bool
    lateness: float


@contextmanager
def simulation(num_gpus: int) -> Iterator[None]:
    """Ray on this machine with pretended GPUs."""
    options = RayOptions(num_cpus=2, num_gpus=num_gpus, object_store_mb=1000, dashboard=False)
    with ray_session.session(options=options):
        yield


def start(actor: type[Any], num_gpus: int, *arguments: Any) -> Any:
    """An actor with pretended GPUs. It holds no CPU: the machine's are few, and everybody sleeps."""
    return ray.remote(actor).options(num_cpus=0, num_gpus=num_gpus, max_concurrency=1000).remote(*arguments)


def run(world: World, layout: Layout, num_steps: int, seed: int, *, pretend_gpus: bool = True) -> Measured:
    """Args: num_steps: of one block a trainer; pretend_gpus: encoders and trainers hold one of Ray's logical GPUs each.

    Raises:
        ray.exceptions.RayTaskError: an actor failed.
    """
    trainers, encoders = layout.trainers, layout.encoders
    gpus = 1 if pretend_gpus else 0
    network = start(Network, 0, world, layout, seed)
    num_blocks = num_steps * len(trainers)
    coordinator = start(Coordinator, 0, world, num_blocks, len(trainers), layout.max_in_flight, layout.inline)
    readers = start(Readers, 0, world, layout.readers, network, seed)
    pools = [
        start(Encoders, gpus * len(nodes), world, nodes, first, layout.cached_from, network, seed)
        for first in range(0, len(encoders), ENCODERS_PER_PROCESS)
        for nodes in [encoders[first : first + ENCODERS_PER_PROCESS]]
    ]
    trainer = start(Trainers, gpus * len(trainers), world, layout, network, seed)
    actors = [network, coordinator, readers, trainer, *pools]
    try:
        imports_torch = any(ray.get([pool.imports_torch.remote() for pool in pools]))
        training = trainer.run.remote(coordinator, num_steps)
        running = [training, *(stage.run.remote(coordinator) for stage in (readers, *pools))]
        pending = running
        while pending:
            # Whoever fails is heard at once; the others would wait for ever.
            done, pending = ray.wait(pending)
            ray.get(done)
        trained, lateness = ray.get(training)
    finally:
        for actor in actors:
            ray.kill(actor)
    return _measured(trained, len(trainers), world.block_images, imports_torch, lateness)


def _measured(
    trained: list[Trained], num_trainers: int, block_images: int, imports_torch: bool, lateness: float
) -> Measured:
    by_end = sorted(trained, key=lambda block: block.finished)
    warm = _NUM_WARM_STEPS * num_trainers
    seconds = by_end[-1].finished - by_end[warm - 1].finished
    events = sorted([(b.read_started, 1) for b in trained] + [(b.finished, -1) for b in trained])
    in_flight = peak = 0
    for _, change in events:
        in_flight += change
        peak = max(peak, in_flight)
    return Measured(
        images_per_s=(len(trained) - warm) * block_images / seconds,
        seconds=seconds,
        samples=tuple(sorted(sample for block in trained for sample in block.samples)),
        peak_in_flight=peak,
        imports_torch=imports_torch,
        lateness=lateness,
    )

"""The Ray actors of a simulated cluster. Times are slept, bytes are real: every block is put into Ray's object store,
taken out by the next stage and copied. One process holds many workers of a stage, as coroutines; none imports torch."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import ray

from benchmarks.simulated_line import Line
from benchmarks.simulated_world import Layout, Noise, World

_HEADER_BYTES = 8
_SLEEP_SECONDS = 0.4
"""As short as the shortest stage's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Images or features on their way. Fields: number: in the run's order; node: that holds the bytes; read_started:
    on the machine's monotonic clock; reference: of the bytes in the object store."""

    number: int
    node: int
    read_started: float
    reference: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A block that a trainer has used. Fields: samples: their numbers as its bytes said; rank; read_started,
    finished: on the machine's monotonic clock."""

    samples: tuple[int, ...]
    rank: int
    read_started: float
    finished: float


def pack(samples: npt.NDArray[np.int64], num_bytes: int) -> npt.NDArray[np.uint8]:
    """The samples' numbers, filled up to `num_bytes` in all (or what the numbers need)."""
    packed = np.zeros(max(num_bytes, _HEADER_BYTES * len(samples)), dtype=np.uint8)
    packed[: _HEADER_BYTES * len(samples)] = samples.view(np.uint8)
    return packed


def unpack(values: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.int64]:
    """The numbers of `count` samples in what `pack` made."""
    return values[: _HEADER_BYTES * count].view(np.int64)


Timed = tuple[list[Any], list[float]]
"""Results, and the seconds that each took."""


async def _timed(work: Callable[[Any], Awaitable[Any]], items: Iterable[Any]) -> Timed:
    """One item after the other; the first warms up and is left out."""
    results, seconds = [], []
    for item in items:
        started = time.perf_counter()
        results.append(await work(item))
        seconds.append(time.perf_counter() - started)
    return results[1:], seconds[1:]


async def _together(workers: Iterable[Awaitable[Timed]]) -> Timed:
    parts = await asyncio.gather(*workers)
    return [result for results, _ in parts for result in results], [s for _, seconds in parts for s in seconds]


async def _sleep_on(slept: list[float]) -> None:
    while True:
        started = time.monotonic()
        await asyncio.sleep(_SLEEP_SECONDS)
        slept.append(time.monotonic() - started)


class Coordinator:
    """The one process that every block passes: hands out what is to be read, queues what is to be encoded, and deals
    what is encoded to the trainers in order. Never more than `max_in_flight` blocks are on their way.

    Args:
        inline: nothing is to be encoded before the trainers.
    """

    def __init__(self, world: World, num_blocks: int, num_trainers: int, max_in_flight: int, inline: bool) -> None:
        self.inline = inline
        self.seconds_per_block = world.coordinate_seconds * world.block_images
        self.num_blocks = num_blocks
        self.num_handed = 0
        self.room = asyncio.Semaphore(max_in_flight)
        self.read: asyncio.PriorityQueue[tuple[int, Block | None]] = asyncio.PriorityQueue()
        self.num_taken = 0
        self.encoded = [asyncio.get_running_loop().create_future() for _ in range(num_blocks)]
        self.dealt: list[asyncio.Queue[Block]] = [asyncio.Queue() for _ in range(num_trainers)]
        self.dealing = asyncio.create_task(self._deal())

    async def next_to_read(self) -> int | None:
        """A block's number, as soon as there is room for one more; None when all are handed out."""
        await self.room.acquire()
        if self.num_handed == self.num_blocks:
            self.room.release()
            return None
        self.num_handed += 1
        return self.num_handed - 1

    async def add_read(self, block: Block) -> None:
        if self.inline:
            await self.add_encoded(block)
        else:
            await self.read.put((block.number, block))

    async def next_to_encode(self) -> Block | None:
        """The lowest block that is read; None when all are taken."""
        _, block = await self.read.get()
        self.num_taken += block is not None
        if self.num_taken == self.num_blocks:
            # One who waits wakes the next.
            await self.read.put((self.num_blocks, None))
        return block

    async def add_encoded(self, block: Block) -> None:
        self.encoded[block.number].set_result(block)

    async def next_to_train(self, rank: int) -> Block:
        return await self.dealt[rank].get()

    async def release(self) -> None:
        """A block has left."""
        self.room.release()

    async def _deal(self) -> None:
        line = Line()
        for number, arrival in enumerate(self.encoded):
            block = await arrival
            await line.serve(self.seconds_per_block)
            await self.dealt[number % len(self.dealt)].put(block)


class Network:
    """Links of limited bandwidth: each node's out and in, and the storage's."""

    def __init__(self, world: World, layout: Layout, seed: int) -> None:
        self.world, self.layout = world, layout
        self.out = [Line() for _ in layout.nodes]
        self.into = [Line() for _ in layout.nodes]
        self.storage = Line()
        self.noise = Noise(seed, 0)

    async def carry(self, source: int, target: int, num_bytes: int) -> None:
        """Returns when the bytes have passed both links; within a node at once."""
        if source == target:
            return
        for line, node in ((self.out[source], source), (self.into[target], target)):
            await line.serve(self._seconds(num_bytes, self.layout.nodes[node].bytes_per_s))

    async def store(self, num_bytes: int) -> None:
        """Returns when the bytes have come from the storage or gone to it."""
        await self.storage.serve(self._seconds(num_bytes, self.layout.storage_bytes_per_s))

    def _seconds(self, num_bytes: int, bytes_per_s: float) -> float:
        return num_bytes / (bytes_per_s * self.world.link_share) * self.noise(self.world.link_noise)


class Readers:
    """Readers on some nodes.

    Args:
        nodes: of each reader.
    """

    def __init__(self, world: World, nodes: list[int], network: Any, seed: int) -> None:
        self.world, self.nodes, self.network = world, nodes, network
        self.noises = [Noise(seed, 1, worker) for worker in range(len(nodes))]

    async def run(self, coordinator: Any) -> None:
        await asyncio.gather(*(self._work(worker, coordinator) for worker in range(len(self.nodes))))

    async def _work(self, worker: int, coordinator: Any) -> None:
        while (number := await coordinator.next_to_read.remote()) is not None:
            await coordinator.add_read.remote(await self.read(worker, number))

    async def read(self, worker: int, number: int) -> Block:
        """What a reader does for a block."""
        world, started = self.world, time.monotonic()
        num_bytes = world.block_images * world.sample_bytes
        await self.network.store.remote(num_bytes)
        await asyncio.sleep(world.block_images * world.read_seconds * self.noises[worker](world.read_noise))
        samples = np.arange(number * world.block_images, (number + 1) * world.block_images, dtype=np.int64)
        reference = ray.put(pack(samples, num_bytes))
        return Block(number=number, node=self.nodes[worker], read_started=started, reference=reference)

    async def measure(self, num_blocks: int) -> Timed:
        """Blocks, so many from each reader."""
        return await _together(
            _timed(partial(self.read, worker), range(num_blocks + 1)) for worker in range(len(self.nodes))
        )


class Encoders:
    """Encoders on some nodes, of which each pretends to be a GPU.

    Args:
        nodes: of each encoder.
        first: number of the first of them in the pool.
        cached_from: the block from which on features come out of the storage; those before go in. None without cache.
    """

    def __init__(
        self, world: World, nodes: list[int], first: int, cached_from: int | None, network: Any, seed: int
    ) -> None:
        self.world, self.nodes, self.cached_from, self.network = world, nodes, cached_from, network
        self.noises = [Noise(seed, 2, first + worker) for worker in range(len(nodes))]

    async def run(self, coordinator: Any) -> None:
        await asyncio.gather(*(self._work(worker, coordinator) for worker in range(len(self.nodes))))

    async def _work(self, worker: int, coordinator: Any) -> None:
        # A pool doesn't load its weights in one instant, and encoders in step would deliver in bursts.
        share = self.noises[worker].random.uniform()
        await asyncio.sleep(share * self.world.block_images * self.world.encode_seconds)
        while (block := await coordinator.next_to_encode.remote()) is not None:
            await coordinator.add_encoded.remote(await self.encode(worker, block))

    async def encode(self, worker: int, block: Block) -> Block:
        """What an encoder does for a block."""
        world = self.world
        num_bytes = world.block_images * world.feature_bytes
        features = pack(unpack(await block.reference, world.block_images), num_bytes)
        is_cached = self.cached_from is not None and block.number >= self.cached_from
        if not is_cached:
            await asyncio.sleep(world.block_images * world.encode_seconds * self.noises[worker](world.encode_noise))
        if self.cached_from is not None:
            await self.network.store.remote(num_bytes)
        return replace(block, node=self.nodes[worker], reference=ray.put(features))

    async def measure(self, blocks: list[Block]) -> Timed:
        """The blocks' features, each encoder taking its share."""
        count = len(self.nodes)
        return await _together(
            _timed(partial(self.encode, w), blocks[w : w + 1] + blocks[w::count]) for w in range(count)
        )

    def imports_torch(self) -> bool:
        return "torch" in sys.modules


class Trainers:
    """All trainers of a run, in step: a step ends when the slowest is done."""

    def __init__(self, world: World, layout: Layout, network: Any, seed: int) -> None:
        self.world, self.layout, self.network = world, layout, network
        self.noises = [Noise(seed, 3, rank) for rank in range(len(layout.trainers))]

    async def run(self, coordinator: Any, num_steps: int) -> tuple[list[Trained], float]:
        """Every block that was trained on, one a trainer and step; and how much longer than asked a sleeper in this
        process slept, as a share: what the machine itself added to the times."""
        slept: list[float] = []
        sleeping = asyncio.create_task(_sleep_on(slept))
        step_end = asyncio.Barrier(len(self.layout.trainers))
        ranks = range(len(self.layout.trainers))
        done = await asyncio.gather(*(self._work(rank, coordinator, num_steps, step_end) for rank in ranks))
        sleeping.cancel()
        lateness = np.mean(slept) / _SLEEP_SECONDS - 1 if slept else 0.0
        return [trained for of_rank in done for trained in of_rank], float(lateness)

    async def _work(self, rank: int, coordinator: Any, num_steps: int, step_end: asyncio.Barrier) -> list[Trained]:
        ready: asyncio.Queue[tuple[Block, npt.NDArray[np.uint8]]] = asyncio.Queue(maxsize=1)
        fetching = asyncio.create_task(self._fetch(rank, coordinator, num_steps, ready))
        done = []
        for _ in range(num_steps):
            block, values = await ready.get()
            samples = await self.receive(values)
            await self.train(rank)
            await step_end.wait()
            done.append(Trained(samples=samples, rank=rank, read_started=block.read_started, finished=time.monotonic()))
            coordinator.release.remote()
        await fetching
        return done

    async def _fetch(self, rank: int, coordinator: Any, num_blocks: int, ready: asyncio.Queue[Any]) -> None:
        node = self.layout.trainers[rank]
        for _ in range(num_blocks):
            block = await coordinator.next_to_train.remote(rank)
            values = await block.reference
            await self.network.carry.remote(block.node, node, values.nbytes)
            await ready.put((block, values))

    async def receive(self, values: npt.NDArray[np.uint8]) -> tuple[int, ...]:
        """Copies a block out of the object store and tells its samples."""
        await asyncio.sleep(self.world.block_images * self.world.receive_seconds)
        return tuple(unpack(values.copy(), self.world.block_images).tolist())

    async def measure(self, blocks: list[Block]) -> tuple[list[float], list[float]]:
        """Seconds of receiving and of training each block, each trainer taking its share and waiting for none."""
        values = [await block.reference for block in blocks]
        count = len(self.noises)
        received = _together(_timed(self.receive, values[rank::count]) for rank in range(count))
        trained = _together(_timed(self.train, [rank] * len(values[rank::count])) for rank in range(count))
        return (await received)[1], (await trained)[1]

    async def train(self, rank: int) -> None:
        """What a trainer does with a block, encoding included where there is no pool."""
        world, noise = self.world, self.noises[rank]
        seconds = world.train_seconds * noise(world.train_noise)
        if self.layout.inline:
            seconds += world.encode_seconds * noise(world.encode_noise)
        await asyncio.sleep(world.block_images * seconds)

"""Measures workers of each stage of a simulated world by the wall clock, as pipelines/planning/calibrate.py does for
the real stages. The planner gets these rates and nothing else of the world."""

from __future__ import annotations

import dataclasses
import statistics

import ray

from benchmarks.simulated_actors import Encoders, Network, Readers, Trainers
from benchmarks.simulated_run import run, start
from benchmarks.simulated_world import Layout, SimulatedNode, World
from pipelines.planning.rates import StageRates

_NUM_WORKERS = 4
"""Of a stage, at once: times vary, and one worker alone would have to go on for long; they don't hinder each other."""
_WIDE = 1e12
"""bytes/s of links that nobody waits for."""


def calibrate(world: World, seed: int, num_blocks: int) -> StageRates:
    """Reads, encodes and trains on a few blocks, one stage after the other, and moves many blocks that take no time.

    Args:
        num_blocks: that are timed per worker; coordination takes twenty times as many.
    """
    nodes = (SimulatedNode(bytes_per_s=_WIDE, trainers=_NUM_WORKERS),)
    layout = Layout(nodes=nodes, storage_bytes_per_s=_WIDE)
    places = [0] * _NUM_WORKERS
    network = start(Network, 0, world, layout, seed)
    reader = start(Readers, 0, world, places, network, seed)
    encoder = start(Encoders, _NUM_WORKERS, world, places, 0, None, network, seed)
    trainer = start(Trainers, _NUM_WORKERS, world, layout, network, seed)
    try:
        blocks, read = ray.get(reader.measure.remote(num_blocks))
        features, encode = ray.get(encoder.measure.remote(blocks))
        receive, train = ray.get(trainer.measure.remote(features))
        sizes = [[ray.get(block.reference).nbytes for block in made] for made in (blocks, features)]
    finally:
        for actor in (network, reader, encoder, trainer):
            ray.kill(actor)
    per_block = world.block_images
    return StageRates(
        read_seconds=statistics.mean(read) / per_block,
        encode_seconds=statistics.mean(encode) / per_block,
        train_seconds=statistics.mean(train) / per_block,
        receive_seconds=statistics.mean(receive) / per_block,
        coordinate_seconds=_coordination(world, seed, 20 * num_blocks),
        sample_bytes=statistics.mean(sizes[0]) / per_block,
        feature_bytes=statistics.mean(sizes[1]) / per_block,
        encode_deviation=statistics.stdev(encode) / statistics.mean(encode),
        train_deviation=statistics.stdev(train) / statistics.mean(train),
    )


def _coordination(world: World, seed: int, num_blocks: int) -> float:
    """Seconds an image where nothing but the moving of blocks takes any time."""
    idle = dataclasses.replace(world, read_seconds=0.0, encode_seconds=0.0, train_seconds=0.0, receive_seconds=0.0)
    nodes = (
        SimulatedNode(bytes_per_s=_WIDE, readers=4, trainers=4),
        SimulatedNode(bytes_per_s=_WIDE, encoders=4),
    )
    layout = Layout(nodes=nodes, storage_bytes_per_s=_WIDE)
    return 1 / run(idle, layout, num_blocks // 4, seed).images_per_s

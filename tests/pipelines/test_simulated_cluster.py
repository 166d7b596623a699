"""The simulated cluster that the planner is held against: nothing is lost or doubled, queues are bounded."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from benchmarks.simulated_cluster import PREDICTIONS, RATES, predict_all, read_predictions
from benchmarks.simulated_configurations import CONFIGURATIONS, layout_of
from benchmarks.simulated_line import Line
from benchmarks.simulated_run import run
from benchmarks.simulated_world import Layout, Noise, SimulatedNode, World
from frozenseg.config import load_toml
from frozenseg.errors import UserInputError
from pipelines.planning import StageRates

WORLD = World(read_seconds=0.01, encode_seconds=0.02, train_seconds=0.02, coordinate_seconds=0.0, feature_bytes=4096)
SLOW_TRAINER = Layout(
    nodes=(
        SimulatedNode(bytes_per_s=1e9, readers=2, trainers=1),
        SimulatedNode(bytes_per_s=1e9, readers=1, encoders=4),
    ),
    storage_bytes_per_s=1e9,
)
INLINE = Layout(nodes=(SimulatedNode(bytes_per_s=1e9, readers=2, trainers=2),), storage_bytes_per_s=1e9, inline=True)


@pytest.mark.parametrize(("layout", "num_trainers"), [(SLOW_TRAINER, 1), (INLINE, 2)])
def test_every_sample_passes_once_and_the_queues_are_bounded(
    ray_session: None, layout: Layout, num_trainers: int
) -> None:
    measured = run(WORLD, layout, num_steps=30, seed=0, pretend_gpus=False)
    assert measured.samples == tuple(range(30 * num_trainers * WORLD.block_images))
    # Readers and encoders are faster than the trainers, so that it is the bound which holds them back.
    assert layout.max_in_flight - 2 <= measured.peak_in_flight <= layout.max_in_flight
    assert measured.images_per_s > 0
    assert not measured.imports_torch


def test_a_line_serves_one_after_the_other() -> None:
    line = Line()

    async def serve_all() -> list[float]:
        started = time.monotonic()

        async def ended() -> float:
            await line.serve(0.02)
            return time.monotonic() - started

        return await asyncio.gather(*(ended() for _ in range(4)))

    ends = asyncio.run(serve_all())
    assert all(end >= 0.99 * 0.02 * (place + 1) for place, end in enumerate(ends))


def test_noise_has_the_mean_1_and_a_stream_for_every_worker() -> None:
    noise = Noise(0, 1, 2)
    factors = [noise(0.2) for _ in range(4000)]
    assert sum(factors) / 4000 == pytest.approx(1, abs=0.02)
    assert min(factors) > 0
    assert Noise(0, 1, 2)(0.2) == factors[0] != Noise(0, 1, 3)(0.2)
    assert Noise(0, 1)(0.0) == 1.0


def test_configurations_reach_from_1_to_64_encoders_with_every_bottleneck() -> None:
    layouts = {each.name: layout_of(each, World()) for each in CONFIGURATIONS}
    for each in CONFIGURATIONS:
        layout = layouts[each.name]
        assert (len(layout.encoders), len(layout.trainers)) == (each.num_encoders, each.num_trainers)
    sizes = {len(layout.encoders) for layout in layouts.values()}
    assert {1, 64} <= sizes
    assert [node.encoders for node in layouts["10 encoders on 2 of 4 nodes, narrow links out"].nodes] == [0, 8, 2]
    shared = layouts["4 encoders beside 2 trainers"].nodes
    assert [(node.trainers, node.encoders) for node in shared] == [(2, 4)]
    assert {each.mode for each in CONFIGURATIONS} == {"stream", "inline", "cache"}


def test_the_committed_predictions_are_those_of_the_committed_rates(tmp_path: Path) -> None:
    predictions = read_predictions(PREDICTIONS)
    assert predict_all(load_toml(RATES, StageRates)) == predictions
    assert {each.bottleneck for each in predictions.values()} == {
        "encoders",
        "trainers",
        "reading",
        "storage",
        "coordination",
        "network out of the encoders",
        "network into the trainers",
    }
    other = tmp_path / "predictions.json"
    other.write_text(json.dumps({"1 encoder": {"images_per_s": 1.0, "bottleneck": "encoders"}}))
    with pytest.raises(UserInputError, match="no prediction for 4 encoders"):
        read_predictions(other)

"""The planner: each stage can be the slowest, the best mode follows, and calibration measures a real run."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import pipelines.shard
from frozenseg.config import load_toml, to_toml
from frozenseg.data import CocoPanoptic, JitterConfig
from frozenseg.errors import UserInputError
from pipelines import train
from pipelines.planning import Cluster, NodeGroup, StageRates, Workload, best_plan, coordination, predict
from pipelines.planning.calibrate import calibrate
from pipelines.planning.report import bytes_text, describe_plan
from pipelines.shard import ShardOptions, shard_coco, write_job
from pipelines.train_config import FeaturesSection, TrainConfig

CONFIGS = Path(__file__).parents[2] / "configs"
WORK = Workload(num_images=1000, num_steps=1000, batch_size=16, num_views=2)
CLUSTER = Cluster(
    trainers=NodeGroup(nodes=1, cpus=32, gpus=4, gbit_per_s=80, price_per_hour=10),
    encoders=NodeGroup(nodes=8, cpus=8, gpus=1, gbit_per_s=8, price_per_hour=1),
    head_price_per_hour=0.5,
    storage_gbit_per_s=800,
)
RATES = StageRates(read_seconds=0.02, encode_seconds=0.5, train_seconds=0.1, feature_bytes=50e6, sample_bytes=0.2e6)


@pytest.mark.parametrize(
    ("changes", "encoders", "bottleneck", "images_per_s"),
    [
        ({}, 4, "encoders", 4 / 0.5),
        ({"encode_seconds": 0.05}, 8, "trainers", 4 / 0.1),
        ({"read_seconds": 24.0}, 8, "reading", (32 + 64) / 24),
        ({"feature_bytes": 4e9}, 8, "network out of the encoders", 8 * 1e9 / 4e9),
        ({"coordinate_seconds": 0.2}, 8, "coordination", 5.0),
        ({"sample_bytes": 50e9}, 8, "storage", 100e9 / 50e9),
    ],
)
def test_the_slowest_stage_sets_the_pace(
    changes: dict[str, float], encoders: int, bottleneck: str, images_per_s: float
) -> None:
    plan = predict(CLUSTER, dataclasses.replace(RATES, **changes), WORK, "stream", encoders)
    assert plan.bottleneck == bottleneck
    assert plan.images_per_s == pytest.approx(images_per_s)
    assert plan.hours == pytest.approx(16_000 / images_per_s / 3600)
    assert plan.cost == pytest.approx(plan.hours * (0.5 + 10 + encoders))
    assert plan.idle_share == pytest.approx(1 - images_per_s / 40)
    assert plan.bounds[0] == (bottleneck, pytest.approx(images_per_s))


def test_inline_encodes_in_the_trainers_and_moves_nothing() -> None:
    plan = predict(CLUSTER, RATES, WORK, "inline")
    assert plan.images_per_s == pytest.approx(4 / 0.6)
    assert (plan.num_encoders, plan.moved_bytes, plan.stored_bytes) == (0, 0.0, 0.0)
    assert plan.cost == pytest.approx(plan.hours * 10.5)


def test_a_cache_computes_each_view_once_and_then_goes_at_the_trainers_pace() -> None:
    plan = predict(CLUSTER, RATES, WORK, "cache", 4)
    first, rest = 2000 / 8, 14_000 / 40
    assert plan.hours == pytest.approx((first + rest) / 3600)
    assert plan.stored_bytes == pytest.approx(1000 * 2 * 50e6)
    assert plan.bottleneck == "trainers"
    once = predict(CLUSTER, RATES, dataclasses.replace(WORK, num_steps=100), "cache", 4)
    assert once.images_per_s == pytest.approx(8.0)  # the run ends before any view comes again


def test_the_best_plan_takes_no_encoder_more_than_helps() -> None:
    fast = dataclasses.replace(RATES, encode_seconds=0.1)
    plan = best_plan(CLUSTER, fast, WORK, modes=("stream",))
    assert (plan.num_encoders, plan.bottleneck) == (4, "trainers")
    assert best_plan(CLUSTER, RATES, WORK, goal="cost", modes=("inline", "stream")).mode == "stream"
    dear = dataclasses.replace(CLUSTER, encoders=dataclasses.replace(CLUSTER.encoders, price_per_hour=100.0))
    assert best_plan(dear, RATES, WORK, goal="cost", modes=("inline", "stream")).mode == "inline"


def test_without_encoder_nodes_the_pool_takes_slots_of_the_trainers() -> None:
    small = Cluster(trainers=NodeGroup(nodes=1, cpus=16, gpus=4))
    plan = predict(small, RATES, WORK, "stream", 3)
    assert plan.num_trainers == 1
    assert "network out of the encoders" not in dict(plan.bounds)
    with pytest.raises(UserInputError, match="room for 1 to 3"):
        predict(small, RATES, WORK, "stream", 4)
    with pytest.raises(UserInputError, match="no room for a pool"):
        best_plan(Cluster(trainers=NodeGroup(cpus=1)), RATES, WORK, modes=("stream",))


def test_only_nodes_that_are_up_send_and_read() -> None:
    nodes = dataclasses.replace(CLUSTER.encoders, nodes=4, cpus=16, gpus=4)
    cluster = dataclasses.replace(CLUSTER, encoders=nodes)
    rates = dataclasses.replace(RATES, read_seconds=1.0)
    out = {size: dict(predict(cluster, rates, WORK, "stream", size).bounds) for size in (1, 4, 6, 16)}
    link = 1e9 / 50e6
    # Of six encoders four are on the first node, so a third of the features passes the other's link.
    expected = {1: link, 4: link, 6: 1.5 * link, 16: 4 * link}
    assert {size: bounds["network out of the encoders"] for size, bounds in out.items()} == pytest.approx(expected)
    assert [bounds["reading"] for bounds in out.values()] == [32 + 16, 32 + 16, 32 + 32, 32 + 64]
    assert dict(predict(cluster, rates, WORK, "inline").bounds)["reading"] == 32


def test_the_slowest_trainer_sets_the_step() -> None:
    uneven = dataclasses.replace(RATES, encode_seconds=0.01, train_deviation=0.1)
    plan = predict(CLUSTER, uneven, WORK, "stream", 8)
    # The largest of four normal deviates is 1.03 on average.
    assert plan.images_per_s == pytest.approx(4 / (0.1 * 1.103), rel=0.01)
    one = dataclasses.replace(CLUSTER, trainers=dataclasses.replace(CLUSTER.trainers, gpus=1))
    assert predict(one, uneven, WORK, "stream", 8).images_per_s == pytest.approx(1 / 0.1)
    inline = predict(CLUSTER, dataclasses.replace(uneven, encode_seconds=0.1, encode_deviation=0.1), WORK, "inline")
    assert inline.images_per_s == pytest.approx(4 / (0.2 + 0.01 * 2**0.5 * 1.03), rel=0.01)


def test_numbers_that_cannot_be_are_named() -> None:
    with pytest.raises(UserInputError, match="at least one trainer"):
        predict(Cluster(trainers=NodeGroup(cpus=0.5)), RATES, WORK, "inline")
    with pytest.raises(UserInputError, match="encode_seconds"):
        dataclasses.replace(RATES, encode_seconds=-1.0)
    with pytest.raises(UserInputError, match="trainer node"):
        Cluster(trainers=NodeGroup(nodes=0))
    with pytest.raises(UserInputError, match="gbit"):
        NodeGroup(gbit_per_s=0)


def test_files_and_words(tmp_path: Path) -> None:
    cluster = load_toml(CONFIGS / "cluster.toml", Cluster)
    path = tmp_path / "rates.toml"
    path.write_text(to_toml(RATES))
    assert load_toml(path, StageRates) == RATES
    text = describe_plan(predict(cluster, RATES, WORK, "stream", 8), WORK)
    assert "mode stream: 8 encoder actors, 4 trainers" in text
    assert "bounded by: network out of the encoders" not in text
    assert "16.0 images/s, bounded by: encoders" in text
    assert [bytes_text(value) for value in (12, 3.4e6, 5.8e12)] == ["12 bytes", "3.4 MB", "5.8 TB"]


def test_the_command_finds_the_best_mode_and_names_the_bottleneck() -> None:
    command = [sys.executable, "ray_jobs/plan.py", "--cluster", "configs/cluster.toml", "--mode", "auto"]
    command += ["--config", "configs/coco-convnext-large.toml", "--dataset", "coco-panoptic"]
    command += ["--rates", "configs/rates-1000.toml"]
    done = subprocess.run(command, cwd=CONFIGS.parent, env=os.environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "mode stream: 4 encoder actors, 4 trainers" in done.stdout
    assert "bounded by: trainers" in done.stdout
    assert "118,287 images: 34.1 hours" in done.stdout


def test_moving_a_block_takes_the_same_whatever_it_holds() -> None:
    rates = StageRates(
        read_seconds=0.1, encode_seconds=0.1, train_seconds=0.1, coordinate_seconds=0.005, block_images=4
    )
    assert rates.with_blocks_of(8).coordinate_seconds == 0.0025
    assert rates.with_blocks_of(1).with_blocks_of(4) == rates
    unknown = dataclasses.replace(rates, block_images=0)
    assert unknown.with_blocks_of(8) is unknown


def test_what_moving_a_block_takes_is_measured_with_ray(ray_session: None) -> None:
    found = coordination.measure(num_blocks=40, num_encoders=1)
    assert min(found.cpu, found.wall) > 0


def test_calibration_measures_every_stage_of_a_real_run(
    tmp_path: Path, make_coco: Callable[..., CocoPanoptic], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipelines.shard, "_run", lambda jobs: map(write_job, jobs))
    shard_coco(make_coco(4), ShardOptions(to=str(tmp_path / "shards"), samples_per_shard=4))
    config = load_toml(CONFIGS / "miniature.toml", TrainConfig)
    config = dataclasses.replace(
        config,
        shards=str(tmp_path / "shards"),
        output=str(tmp_path / "run"),
        augmentation=JitterConfig(crop_size=64),
        features=FeaturesSection(codec="float32", encoder_dtype="float32", encoder_batch=2, actor_gpus=0),
    )
    rates = calibrate(train.prepare(config), num_blocks=1)
    assert min(rates.read_seconds, rates.encode_seconds, rates.train_seconds, rates.receive_seconds) > 0
    # Strides 4 to 32 of a 64 crop with 32, 64, 96 and 128 channels, and the miniature SAM's 96 x 32 x 32.
    clip = sum(channels * (64 // stride) ** 2 for channels, stride in ((32, 4), (64, 8), (96, 16), (128, 32)))
    assert rates.feature_bytes == 4 * (clip + 96 * 32 * 32)
    tars = sum(path.stat().st_size for path in (tmp_path / "shards").glob("*.tar"))
    assert rates.sample_bytes == tars / 4 > 0
    assert rates.block_images == config.stream_config(config.model_spec(None)).images_per_block
    assert not (tmp_path / "run").exists()

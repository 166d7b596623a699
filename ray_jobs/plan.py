#!/usr/bin/env python
"""Predicts what a training run takes on a cluster, from rates that were measured on one machine. For example:

python ray_jobs/plan.py --cluster configs/cluster.toml --config configs/coco-convnext-large.toml --rates rates.toml

Without --rates it measures them here first, on the config's own shard set and, for what Ray itself takes to move the
stream's blocks, in a session of Ray. --keep-rates keeps them in a file.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

# `ray job submit` runs this file with no package installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines.job import run_job
from pipelines.ray_session import RayOptions

NUM_IMAGES = {"coco-panoptic": 118_287}
"""Training images of a data set, where no shard set is read."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    cluster: Path
    """TOML file: nodes, GPUs, network, prices"""
    config: Path
    """TOML file of the training run"""
    rates: Path | None = None
    """TOML file of measured rates; without it they are measured here"""
    keep_rates: Path | None = None
    """where to write the rates that were measured"""
    dataset: Literal["coco-panoptic"] | None = None
    """whose number of training images to plan with, in place of the shard set's"""
    shards: str | None = None
    """address of the shard set, in place of the config's"""
    mode: Literal["auto", "stream", "inline", "cache"] = "auto"
    """how features reach the trainers; auto finds the best"""
    encoders: int | None = None
    """actors of the pool; without it the best number is found"""
    views: int = 4
    """augmentations of each image that a cache keeps"""
    goal: Literal["time", "cost"] = "time"
    """what is best"""
    random_encoders: bool = False
    """measure with random encoder weights, which are as fast as any"""
    ray: RayOptions = field(default_factory=lambda: RayOptions(num_cpus=4, num_gpus=0, dashboard=False))
    """where to measure what moving blocks takes; nothing else of it needs Ray"""


def run(arguments: Arguments) -> None:
    from frozenseg.config import load_toml, to_toml
    from frozenseg.errors import UserInputError
    from pipelines import ray_session, train
    from pipelines.planning import Cluster, StageRates, Workload, best_plan, coordination, predict
    from pipelines.planning.calibrate import calibrate
    from pipelines.planning.predict import MODES
    from pipelines.planning.report import describe_plan
    from pipelines.train_config import override
    from pipelines.train_file import load_train_config
    from pipelines.train_overrides import Overrides
    from shards import ShardReader

    cluster = load_toml(arguments.cluster, Cluster)
    changes = Overrides(shards=arguments.shards, random_encoders=arguments.random_encoders)
    config = override(load_train_config(arguments.config), changes)
    stream = config.stream_config(config.model_spec(None))
    if arguments.rates is not None:
        rates = load_toml(arguments.rates, StageRates).with_blocks_of(stream.images_per_block)
    else:
        rates = calibrate(train.prepare(config))
        with ray_session.session(options=arguments.ray):
            moved = coordination.measure()
        rates = replace(rates, coordinate_seconds=moved.cpu / rates.block_images)
        print(f"measured here:\n{to_toml(rates)}", flush=True)
        if arguments.keep_rates is not None:
            arguments.keep_rates.write_text(to_toml(rates), encoding="utf-8")
    if arguments.dataset is not None:
        num_images = NUM_IMAGES[arguments.dataset]
    else:
        num_images = sum(len(file.sample_ids) for file in ShardReader(config.shards).manifest.files)
    work = Workload(
        num_images=num_images,
        num_steps=config.schedule.num_steps,
        batch_size=config.batch_size,
        num_views=arguments.views,
    )
    modes = MODES if arguments.mode == "auto" else (arguments.mode,)
    if arguments.encoders is None:
        plan = best_plan(cluster, rates, work, goal=arguments.goal, modes=modes)
    elif arguments.mode == "auto":
        raise UserInputError("--encoders: expected a --mode beside it, found auto")
    else:
        plan = predict(cluster, rates, work, arguments.mode, arguments.encoders)
    print(describe_plan(plan, work))


if __name__ == "__main__":
    sys.exit(run_job(Arguments, run, __doc__ or ""))

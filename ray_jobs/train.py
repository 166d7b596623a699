#!/usr/bin/env python
"""Trains the decoder on Ray Train; the same command goes on with a run that was stopped. For example:

python ray_jobs/train.py --config configs/coco-convnext-large.toml --shards s3://bucket/coco-train --dry-run
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

# `ray job submit` runs this file with no package installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines import ray_session
from pipelines.job import run_job
from pipelines.ray_session import RayOptions

MINIATURE_CONFIG = Path(__file__).resolve().parents[1] / "configs" / "miniature.toml"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    config: Path | None = None
    """TOML file; without it the miniature is trained"""
    shards: str | None = None
    """address of the shard set, in place of the config's"""
    output: str | None = None
    """folder of the run, in place of the config's"""
    steps: int | None = None
    """last step, in place of the config's"""
    engine: Literal["deepspeed", "torch"] | None = None
    """in place of the config's"""
    random_encoders: bool = False
    """random encoder weights: nothing sensible is learnt, and every output says so"""
    dry_run: bool = False
    """print the plan and stop"""
    ray: RayOptions = field(default_factory=RayOptions)


def run(arguments: Arguments) -> None:
    from frozenseg.config import load_toml
    from pipelines import train
    from pipelines.train_config import TrainConfig, override

    if arguments.config is None:
        print(f"no --config: training the miniature ({MINIATURE_CONFIG.name})", flush=True)
    config = override(
        load_toml(arguments.config or MINIATURE_CONFIG, TrainConfig),
        shards=arguments.shards,
        output=arguments.output,
        num_steps=arguments.steps,
        engine=arguments.engine,
        random_encoders=arguments.random_encoders,
    )
    # Everything that needs no model first: a mistake then costs a second.
    if not arguments.dry_run:
        ray_session.refuse_early(train.needs(config), arguments.ray)
    prepared = train.prepare(config)
    print(train.describe(prepared), flush=True)
    if arguments.dry_run:
        return
    with ray_session.session(train.needs(config), arguments.ray):
        folder = train.train_run(prepared)
    print(f"model: {folder}")


if __name__ == "__main__":
    sys.exit(run_job(Arguments, run, __doc__ or ""))

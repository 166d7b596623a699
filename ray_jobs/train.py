#!/usr/bin/env python
"""Trains the decoder on Ray Train; the same command goes on with a run that was stopped. For example:

python ray_jobs/train.py --config configs/coco-convnext-large.toml --shards s3://bucket/coco-train --dry-run
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import OmitArgPrefixes

# `ray job submit` runs this file with no package installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines import ray_session
from pipelines.job import run_job
from pipelines.ray_session import RayOptions
from pipelines.train_overrides import Overrides

MINIATURE_CONFIG = Path(__file__).resolve().parents[1] / "configs" / "miniature.toml"
EXIT_INTERRUPTED = 130  # as a shell says of a process that Ctrl-C ended


@dataclass(frozen=True, kw_only=True)
class Arguments:
    config: Path | None = None
    """TOML file; without it the miniature is trained"""
    changes: OmitArgPrefixes[Overrides] = field(default_factory=Overrides)
    images_per_second: float | None = None
    """for the plan's estimate of the time; without it, what this run's last steps did"""
    dry_run: bool = False
    """print the plan and stop"""
    ray: RayOptions = field(default_factory=RayOptions)


def run(arguments: Arguments) -> None:
    from pipelines import train
    from pipelines.miniature_shards import write_miniature_shards
    from pipelines.train_config import override
    from pipelines.train_file import load_train_config, on_storage
    from shards import MANIFEST_NAME, Storage

    if arguments.config is None:
        print(f"no --config: training the miniature ({MINIATURE_CONFIG.name})", flush=True)
    config = on_storage(override(load_train_config(arguments.config or MINIATURE_CONFIG), arguments.changes))
    its_own_world = arguments.config is None and arguments.changes.shards is None
    if its_own_world and not Storage(config.shards).exists(MANIFEST_NAME):
        print(f"no shard set at {config.shards}: making the miniature world", flush=True)
        write_miniature_shards(config.shards)
    # Everything that needs no model first: a mistake then costs a second.
    if not arguments.dry_run:
        ray_session.refuse_early(train.needs(config), arguments.ray)
    prepared = train.prepare(config)
    print(train.describe(prepared, arguments.images_per_second), flush=True)
    if arguments.dry_run:
        return
    try:
        with ray_session.session(train.needs(config), arguments.ray):
            folder = train.train_run(prepared)
    except KeyboardInterrupt:
        print("train: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED) from None
    print(f"model: {folder}")


if __name__ == "__main__":
    sys.exit(run_job(Arguments, run, __doc__ or ""))

"""The demo's steps: the commands that a user would type, what each makes, and how much goes through it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from frozenseg.config import load_toml
from frozenseg.miniature import full_vocabulary
from frozenseg.vocabulary import format_vocabulary
from pipelines.demo.options import DemoOptions
from pipelines.train_config import TrainConfig

TRAIN_CONFIG = "configs/miniature.toml"
FORMATS = "coco-panoptic,coco-instances,semantic-png,parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One command. `makes` is there when it has run to its end; `items` of `unit` go through it."""

    name: str
    command: tuple[str, ...]
    makes: Path
    items: int
    unit: str


def demo_stages(options: DemoOptions) -> tuple[Stage, ...]:
    """The steps in order, up to the server."""
    return (
        _world(options),
        _shard(options, "train", options.train_scenes),
        _shard(options, "val", options.val_scenes),
        _train(options),
        _evaluate(options, options.evaluation, "evaluate on the held-out scenes, seen and unseen categories apart"),
        _evaluate(options, options.baseline, "evaluate the same decoder before training", "--untrained"),
        _label(options),
    )


def _job(script: str, *arguments: str | Path | float) -> tuple[str, ...]:
    return (sys.executable, f"ray_jobs/{script}", *map(str, arguments))


def _world(options: DemoOptions) -> Stage:
    console_command = str(Path(sys.executable).with_name("frozenseg"))
    arguments = ("--to", options.world, "--num-train", options.train_scenes, "--num-val", options.val_scenes)
    return Stage(
        name="make the miniature world, a COCO panoptic data set on disk",
        command=(console_command, "make-miniature", *map(str, arguments), "--seed", str(options.seed)),
        makes=options.world / "annotations" / "panoptic_val.json",
        items=options.train_scenes + options.val_scenes,
        unit="scenes",
    )


def _shard(options: DemoOptions, split: str, count: int) -> Stage:
    truth = f"annotations/panoptic_{split}"
    return Stage(
        name=f"shard the {split} scenes into webdataset tars with Ray Data",
        command=_job(
            "shard.py",
            "--root",
            options.world,
            "--json",
            f"{truth}.json",
            "--images",
            split,
            "--panoptic",
            truth,
            "--to",
            options.shards(split),
            "--prefix",
            f"miniature-{split}",
            "--samples-per-shard",
            -(-count // 2),  # two tars, one for each core
        ),
        makes=options.shards(split) / "manifest.json",
        items=count,
        unit="samples",
    )


def _train(options: DemoOptions) -> Stage:
    config = load_toml(TRAIN_CONFIG, TrainConfig)
    steps = options.steps or config.schedule.num_steps
    more = () if options.steps is None else ("--steps", options.steps)
    return Stage(
        name="stream features from frozen CLIP and SAM to 2 DeepSpeed workers that train the decoder",
        command=_job(
            "train.py", "--config", TRAIN_CONFIG, "--shards", options.shards("train"), "--output", options.to, *more
        ),
        makes=options.model / "config.json",
        items=steps * config.batch_size,
        unit="images",
    )


def _evaluate(options: DemoOptions, to: Path, name: str, *more: str) -> Stage:
    return Stage(
        name=name,
        command=_job(
            "evaluate.py",
            "--model",
            options.model,
            "--data",
            options.shards("val"),
            "--to",
            to,
            "--min-actors",
            2,
            "--max-actors",
            2,
            "--actor-cpus",
            0.5,
            *more,
        ),
        makes=to / "metrics.json",
        items=options.val_scenes,
        unit="images",
    )


def _label(options: DemoOptions) -> Stage:
    return Stage(
        name="label a folder of pictures offline",
        command=_job(
            "label.py",
            "--images",
            options.pictures,
            "--vocabulary",
            format_vocabulary(full_vocabulary()),
            "--model",
            options.model,
            "--to",
            options.labels,
            "--formats",
            FORMATS,
        ),
        makes=options.labels / "manifest.json",
        items=options.label_images,
        unit="images",
    )

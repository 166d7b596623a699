#!/usr/bin/env python
"""Turns a data set into a shard set, for example:

python ray_jobs/shard.py --dataset coco-panoptic --split train --root coco --to s3://bucket/coco-train
python ray_jobs/shard.py --root coco --json annotations/panoptic_train2017.json --images train2017
    --panoptic annotations/panoptic_train2017 --to s3://bucket/coco-train
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

# `ray job submit` runs this file with no package installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines import ray_session
from pipelines.job import run_job
from pipelines.ray_session import Need, RayOptions
from pipelines.storage_root import below_storage, result_below_storage


@dataclass(frozen=True, kw_only=True)
class Arguments:
    to: str
    """folder or fsspec address of the shard set"""
    root: str = "."
    """folder that the other paths are relative to"""
    json: str = "panoptic.json"
    """the panoptic JSON"""
    images: str = "images"
    """folder of the images"""
    panoptic: str = "panoptic"
    """folder of the panoptic PNGs"""
    dataset: str = ""
    """a data set by its name (frozenseg check-data list), in the layout of its release below --root; takes the place
    of the three paths"""
    split: str = ""
    """of that data set; by default its validation split"""
    shard_size: str = "256MB"
    """size target of a tar: bytes, or a number with KB, MB or GB"""
    samples_per_shard: int | None = None
    """takes the place of --shard-size"""
    prefix: str = "shard"
    """the tars are called PREFIX-000000.tar, ..."""
    seed: int = 0
    """of the scrambling"""
    max_skipped_share: float = 0.001
    """share of unusable samples past which the job fails"""
    overwrite: bool = False
    """forget what lies in the folder when it is of another source or other settings"""
    log: Path | None = None
    """progress as JSON lines"""
    ray: RayOptions = field(default_factory=lambda: RayOptions(dashboard=False))


def run(arguments: Arguments) -> None:
    from frozenseg.data import CocoPanoptic
    from frozenseg.data.dataset import SegmentationData
    from frozenseg.data.files import join
    from frozenseg.data.layouts import open_dataset
    from pipelines.shard import ShardOptions, shard_coco
    from pipelines.units import parse_bytes

    to, root = result_below_storage(arguments.to, "--to"), below_storage(arguments.root)
    options = ShardOptions(
        to=to,
        prefix=arguments.prefix,
        shard_bytes=parse_bytes(arguments.shard_size),
        samples_per_shard=arguments.samples_per_shard,
        seed=arguments.seed,
        max_skipped_share=arguments.max_skipped_share,
        overwrite=arguments.overwrite,
    )
    # Everything that reading tells is read before Ray starts: a mistake then costs a second.
    if arguments.dataset:
        source: SegmentationData = open_dataset(arguments.dataset, root, arguments.split)
    else:
        json, images, panoptic = (join(root, p) for p in (arguments.json, arguments.images, arguments.panoptic))
        source = CocoPanoptic(json, images, panoptic)
    with ray_session.session([Need(name="shard task")], arguments.ray):
        report = shard_coco(source, options, arguments.log)
    manifest = report.manifest
    for skipped in manifest.skipped:
        print(f"skipped {skipped.image_id}: {skipped.reason}")
    print(
        f"{to}: {manifest.num_samples} samples in {len(manifest.files)} tars, {report.num_written} of them "
        f"written now, {len(manifest.skipped)} samples skipped"
    )


if __name__ == "__main__":
    sys.exit(run_job(Arguments, run, __doc__ or ""))

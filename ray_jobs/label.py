#!/usr/bin/env python
"""Labels a corpus of images with any vocabulary, for example:

python ray_jobs/label.py --images s3://bucket/photos --vocabulary "cat; dog,puppy; sky(stuff)" --model runs/coco/model
    --to s3://bucket/labels --formats coco-panoptic,parquet
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


@dataclass(frozen=True, kw_only=True)
class Arguments:
    images: str
    """folder, glob, .txt list, image file or shard set"""
    vocabulary: str
    """text, a file or a published name"""
    to: str
    """folder or fsspec address of the labels"""
    model: str = "miniature"
    """model folder"""
    formats: str = "coco-panoptic"
    """with commas: coco-panoptic, coco-instances, semantic-png, parquet, webdataset"""
    openseg: bool = False
    """let SAM's masks vote for unseen categories (semantic-png)"""
    random_encoders: bool = False
    """CLIP and SAM with random weights; the results mean nothing and say so"""
    min_score: float = 0.0
    """segments below it become void"""
    min_area: int = 0
    """segments with fewer pixels become void"""
    images_per_part: int = 64
    """images that are done again at most when something dies"""
    max_error_share: float = 0.01
    """share of unreadable images past which the job stops"""
    min_actors: int = 1
    max_actors: int = 1
    actor_cpus: float = 1.0
    actor_gpus: float = 0.0
    device: str = "auto"
    dtype: str = "float32"
    log: Path | None = None
    """progress as JSON lines"""
    ray: RayOptions = field(default_factory=lambda: RayOptions(dashboard=False))


def run(arguments: Arguments) -> None:
    from frozenseg.data.files import absolute
    from pipelines.corpus import find_corpus
    from pipelines.label import LabelOptions, check, label
    from pipelines.segmenter_pool import PoolOptions, SegmenterSource

    source = SegmenterSource(
        model=arguments.model if arguments.model == "miniature" else absolute(arguments.model),
        device=arguments.device,
        dtype=arguments.dtype,
        random_encoders=arguments.random_encoders,
    )
    options = LabelOptions(
        to=arguments.to,
        vocabulary=arguments.vocabulary,
        formats=tuple(name.strip() for name in arguments.formats.split(",")),  # type: ignore[misc]
        options={"openseg": True} if arguments.openseg else {},
        min_score=arguments.min_score,
        min_area=arguments.min_area,
        images_per_part=arguments.images_per_part,
        max_error_share=arguments.max_error_share,
    )
    pool = PoolOptions(
        min_actors=arguments.min_actors,
        max_actors=max(arguments.min_actors, arguments.max_actors),
        cpus=arguments.actor_cpus,
        gpus=arguments.actor_gpus,
    )
    # Everything that reading tells is read before Ray starts: a mistake then costs a second.
    check(source, options)
    images = find_corpus(arguments.images)
    actors = Need(name="segmenter", count=arguments.min_actors, cpus=arguments.actor_cpus, gpus=arguments.actor_gpus)
    with ray_session.session([actors], arguments.ray):
        report = label(source, images, options, pool, arguments.log)
    if report.notice:
        print(report.notice)
    print(
        f"{arguments.to}: {report.num_images} images, {report.num_labelled} of them labelled now, "
        f"{report.num_errors} could not be read (errors.parquet)"
    )


if __name__ == "__main__":
    sys.exit(run_job(Arguments, run, __doc__ or ""))

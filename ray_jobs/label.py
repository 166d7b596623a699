#!/usr/bin/env python
"""Labels a corpus of images with any vocabulary, for example:

python ray_jobs/label.py --images s3://bucket/photos --vocabulary "cat; dog,puppy; sky(stuff)" --model runs/coco/model
    --to s3://bucket/labels --formats coco-panoptic,parquet
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

# `ray job submit` runs this file with no package installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines import ray_session
from pipelines.job import SegmenterArguments, run_job
from pipelines.storage_root import below_storage, result_below_storage


@dataclass(frozen=True, kw_only=True)
class Arguments(SegmenterArguments):
    images: str
    """folder, glob, .txt list, image file, shard set, tars or Parquet files"""
    vocabulary: str
    """text, a file or a published name"""
    to: str
    """folder or fsspec address of the labels"""
    model: str = "miniature"
    """model folder"""
    formats: str = "coco-panoptic"
    """with commas: coco-panoptic, coco-instances, semantic-png, parquet, webdataset, labelme, yolo, label-studio, cvat
    """
    image_column: str = ""
    """of Parquet files: the column with image bytes or paths; found by its name when empty"""
    min_score: float = 0.0
    """segments below it become void"""
    min_area: int = 0
    """segments with fewer pixels become void"""
    filters: str = ""
    """the same for single categories: "dog score=0.5 area=200; sky area=1000\""""
    polygon_tolerance: float = 1.0
    """of labelme and yolo: by how many pixels an outline may be off"""
    review: bool = True
    """thumbnails and review.html"""
    images_per_part: int = 64
    """images that are done again at most when something dies"""
    max_error_share: float = 0.01
    """share of unreadable images past which the job stops"""
    dry_run: int = 0
    """label so many images here, write nothing, and say what the whole corpus would take"""
    price_per_hour: float = 0.0
    """of one actor's machine share, for the dry run, in your currency"""
    log: Path | None = None
    """progress as JSON lines"""


def run(arguments: Arguments) -> None:
    from pipelines.corpus import find_corpus
    from pipelines.label import check, label
    from pipelines.labeling.estimate import estimate_labels
    from pipelines.labeling.options import LabelOptions

    source = arguments.source()
    to = result_below_storage(arguments.to, "--to")
    options = LabelOptions(
        to=to,
        vocabulary=arguments.vocabulary,
        formats=tuple(name.strip() for name in arguments.formats.split(",")),  # type: ignore[misc]
        options=arguments.inference_options(),
        min_score=arguments.min_score,
        min_area=arguments.min_area,
        filters=arguments.filters,
        polygon_tolerance=arguments.polygon_tolerance,
        review=arguments.review,
        images_per_part=arguments.images_per_part,
        max_error_share=arguments.max_error_share,
    )
    # Everything that reading tells is read before Ray starts: a mistake then costs a second.
    check(source, options)
    images = find_corpus(below_storage(arguments.images), arguments.image_column)
    pool = arguments.pool()
    if arguments.dry_run:
        print(estimate_labels(source, images, options, pool, arguments.dry_run, arguments.price_per_hour).text())
        return
    with ray_session.session(arguments.needs(), arguments.ray):
        report = label(source, images, options, pool, arguments.log)
    if report.notice:
        print(report.notice)
    print(
        f"{to}: {report.num_images} images, {report.num_labelled} of them labelled now, "
        f"{report.num_errors} could not be read (errors.parquet)"
    )


if __name__ == "__main__":
    sys.exit(run_job(Arguments, run, __doc__ or ""))

#!/usr/bin/env python
"""Draws a sample of labels for people to check, or holds labels against what came back corrected, for example:

python ray_jobs/check_labels.py --images s3://bucket/photos --labels s3://bucket/labels --to check --count 200
cp -r check corrected          # and mend corrected/panoptic.json and corrected/panoptic/
python ray_jobs/check_labels.py --to check --corrected corrected
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

# `ray job submit` runs this file with no package installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from frozenseg.errors import UserInputError
from pipelines.job import run_job
from pipelines.storage_root import below_storage, result_below_storage


@dataclass(frozen=True, kw_only=True)
class Arguments:
    to: str
    """folder or fsspec address of the sample: a COCO panoptic folder"""
    corrected: str = ""
    """the sample as it came back: prints how far the labels agree; nothing is drawn then"""
    images: str = ""
    """the corpus, as it was labelled"""
    image_column: str = ""
    """as it was labelled"""
    labels: str = ""
    """folder or fsspec address of the labels, with the format coco-panoptic"""
    count: int = 200
    """images to draw"""
    seed: int = 0
    """of the draw, and of the interval"""


def run(arguments: Arguments) -> None:
    from pipelines.corpus import find_corpus
    from pipelines.labeling.check import agreement, draw_sample

    to = result_below_storage(arguments.to, "--to")
    if arguments.corrected:
        print(agreement(to, below_storage(arguments.corrected), arguments.seed).text())
        return
    if not arguments.images or not arguments.labels:
        raise UserInputError("expected --images and --labels to draw from, or --corrected, found neither")
    images = find_corpus(below_storage(arguments.images), arguments.image_column)
    count = draw_sample(below_storage(arguments.labels), images, to, arguments.count, arguments.seed)
    print(f"{to}: {count} images with their labels")


if __name__ == "__main__":
    sys.exit(run_job(Arguments, run, __doc__ or ""))

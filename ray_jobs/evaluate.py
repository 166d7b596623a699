#!/usr/bin/env python
"""Evaluates a model on a data set with truth, for example:

python ray_jobs/evaluate.py --model runs/coco/model --data s3://bucket/coco-val --to runs/coco/evaluation
python ray_jobs/evaluate.py --model runs/coco/model --dataset ade20k-panoptic --root ADEChallengeData2016 --to runs/ade
"""

from __future__ import annotations

import dataclasses
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
    to: str
    """folder for metrics.json, card.md, predictions/ and what a rerun goes on from"""
    data: str = ""
    """shard set, or a folder with panoptic.json, images/ and panoptic/"""
    dataset: str = ""
    """instead of --data: a data set by its name (frozenseg check-data list), tested as published"""
    root: str = ""
    """folder of that data set's release"""
    split: str = ""
    """of that data set; by default its validation split"""
    predictions: bool = True
    """write predictions/ in COCO panoptic and COCO results format"""
    config: Path | None = None
    """a row of configs/reproduce/, in place of --dataset, --split, --vocabulary and --openseg"""
    vocabularies: str = ""
    """folder of the vocabulary files that such a row names"""
    vocabulary: str = ""
    """names by which the model is asked: a published name, a file or text; the data set's own when empty"""
    untrained: bool = False
    """a decoder that never learnt: the baseline"""
    limit: int | None = None
    """only the first so many images"""
    images_per_part: int = 16
    """images that are lost at most when an actor dies"""
    max_skipped_share: float = 0.01
    """share of unreadable samples past which the job fails"""
    seed: int = 0
    """of the bootstrap"""


def run(arguments: Arguments) -> None:
    from pipelines.evaluate import EvaluateOptions, check, evaluate
    from pipelines.evaluation_data import DataSource
    from pipelines.evaluation_row import row_arguments
    from pipelines.run_card import card

    if arguments.config is not None:
        arguments = dataclasses.replace(arguments, **row_arguments(arguments.config, arguments.vocabularies))
    source = arguments.source(untrained=arguments.untrained)
    options = EvaluateOptions(
        to=result_below_storage(arguments.to, "--to"),
        vocabulary=arguments.vocabulary,
        options=arguments.inference_options(),
        limit=arguments.limit,
        images_per_part=arguments.images_per_part,
        max_skipped_share=arguments.max_skipped_share,
        predictions=arguments.predictions,
        seed=arguments.seed,
    )
    # Everything that reading tells is read before Ray starts: a mistake then costs a second.
    data = DataSource.chosen(
        below_storage(arguments.data), arguments.dataset, below_storage(arguments.root), arguments.split
    )
    check(source, data, options)
    with ray_session.session(arguments.needs(), arguments.ray):
        print(card(evaluate(source, data, options, arguments.pool())))


if __name__ == "__main__":
    sys.exit(run_job(Arguments, run, __doc__ or ""))

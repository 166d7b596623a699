"""The predictions of an evaluation as files that other tools read: COCO panoptic (JSON and PNGs) for panoptic and
semantic results, COCO results (JSON) for instances.

A part writes its PNGs and remembers its entries in its record; the JSONs are joined at the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import torch

from frozenseg.data.dataset import Task
from frozenseg.inference.files import coco_categories, coco_panoptic_annotation, rle_of_instances
from frozenseg.types import Segment, SegmentationOutput, Size, Vocabulary
from pipelines.evaluation_metrics import Results
from shards import Storage

PANOPTIC_NAME, PANOPTIC_FOLDER = "predictions/panoptic.json", "predictions/panoptic"
INSTANCES_NAME = "predictions/instances.json"


def write_prediction(
    storage: Storage, results: Results, task: Task, vocabulary: Vocabulary, image_id: str, size: Size
) -> dict[str, Any]:
    """Writes one image's PNG, if its task has one; returns what the part's record must remember, as JSON values."""
    number = json_id(image_id)
    image = {"id": number, "file_name": image_id, "height": size[0], "width": size[1]}
    detections = []
    if task is not Task.SEMANTIC:
        detections = [{**entry, "image_id": number} for entry in rle_of_instances(results.instances, vocabulary, "")]
    if task is Task.INSTANCES:
        return {"image": image, "results": detections}
    output = results.panoptic if task is Task.PANOPTIC else as_segments(results.semantic, vocabulary)
    entry, png = coco_panoptic_annotation(output, vocabulary, image_id)
    storage.write_bytes(f"{PANOPTIC_FOLDER}/{image_id}.png", png)
    return {"image": image, "annotation": {**entry, "image_id": number}, "results": detections}


def join_predictions(storage: Storage, records: Iterable[dict[str, Any]], task: Task, vocabulary: Vocabulary) -> None:
    """Writes the JSONs that all images share."""
    remembered = list(records)
    if task is not Task.INSTANCES:
        content = {
            "images": [record["image"] for record in remembered],
            "annotations": [record["annotation"] for record in remembered],
            "categories": coco_categories(vocabulary),
        }
        storage.write_bytes(PANOPTIC_NAME, json.dumps(content).encode())
    if task is not Task.SEMANTIC:
        results = [entry for record in remembered for entry in record["results"]]
        storage.write_bytes(INSTANCES_NAME, json.dumps(results).encode())


def json_id(image_id: str) -> int | str:
    """The id as the data set's JSON has it: COCO's are numbers, which evaluators tell from text."""
    return int(image_id) if image_id.isdecimal() and str(int(image_id)) == image_id else image_id


def as_segments(labels: torch.Tensor, vocabulary: Vocabulary) -> SegmentationOutput:
    """A label map [h,w] of contiguous ids, negative for none, with one segment per category present."""
    ids = (labels + 1).clamp(min=0).to(torch.int32)
    present, areas = torch.unique(ids[ids > 0], return_counts=True)
    segments = tuple(
        Segment(
            id=number,
            category_id=number - 1,
            is_thing=vocabulary.categories[number - 1].is_thing,
            score=1.0,
            area=area,
        )
        for number, area in zip(present.tolist(), areas.tolist(), strict=True)
    )
    return SegmentationOutput(segment_ids=ids, segments=segments)

"""COCO panoptic and COCO instances: JSON of one part, PNGs beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from frozenseg.inference.files import coco_categories, coco_panoptic_annotation, rle_of_segments
from frozenseg.types import SegmentationOutput, Vocabulary
from pipelines.labeling.labelled import LabelledImage, part_name
from shards import Storage


def write_panoptic(
    storage: Storage, part: int, images: Sequence[LabelledImage], vocabulary: Vocabulary, notice: str
) -> None:
    """`coco-panoptic/part-N.json`, and a PNG per image in `part-N/`."""
    annotations = []
    for image in images:
        entry, png = coco_panoptic_annotation(image.result(), vocabulary, image.image_id)
        name = f"{part_name(part)}/{image.image_id}.png"
        storage.write_bytes(f"coco-panoptic/{name}", png)
        annotations.append({**entry, "image_id": image.number, "file_name": name})
    _write(storage, f"coco-panoptic/{part_name(part)}.json", images, annotations, vocabulary, notice)


def write_instances(
    storage: Storage, part: int, images: Sequence[LabelledImage], vocabulary: Vocabulary, notice: str
) -> None:
    """`coco-instances/part-N.json`: the things, masks as compressed RLE."""
    annotations = []
    for image in images:
        things = SegmentationOutput(
            segment_ids=image.result().segment_ids, segments=tuple(s for s in image.segments if s.is_thing)
        )
        for entry, segment in zip(rle_of_segments(things, vocabulary, image.image_id), things.segments, strict=True):
            # Unique in the whole corpus without a count over parts: a million segments per image are room enough.
            number = image.number * 1_000_000 + segment.id
            annotations.append({**entry, "id": number, "image_id": image.number, "iscrowd": 0})
    _write(storage, f"coco-instances/{part_name(part)}.json", images, annotations, vocabulary, notice)


def _write(
    storage: Storage,
    name: str,
    images: Sequence[LabelledImage],
    annotations: list[dict[str, Any]],
    vocabulary: Vocabulary,
    notice: str,
) -> None:
    content = {
        "info": {"description": "frozenseg labels", "notice": notice},
        "images": [{"id": i.number, "file_name": i.file_name, "height": i.size[0], "width": i.size[1]} for i in images],
        "annotations": annotations,
        "categories": coco_categories(vocabulary),
    }
    storage.write_bytes(name, json.dumps(content).encode())

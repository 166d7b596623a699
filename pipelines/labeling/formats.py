"""The formats by name: one part of the corpus written in each of those that are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal, get_args

from frozenseg.types import Vocabulary
from pipelines.labeling.coco import write_instances, write_panoptic
from pipelines.labeling.labelled import LabelledImage, part_name
from pipelines.labeling.tables import segment_table, write_semantic, write_shard_of
from pipelines.labeling.tools import write_cvat, write_label_studio, write_labelme, write_yolo
from shards import Storage, image_extension
from shards.members import PANOPTIC_EXTENSION, SEGMENTS_EXTENSION

LabelFormat = Literal[
    "coco-panoptic",
    "coco-instances",
    "semantic-png",
    "parquet",
    "webdataset",
    "labelme",
    "yolo",
    "label-studio",
    "cvat",
]
FORMATS: tuple[LabelFormat, ...] = get_args(LabelFormat)
MIRRORED: frozenset[LabelFormat] = frozenset({"labelme", "yolo"})
"""Formats whose files are called like the image with another ending."""


def write_part(
    storage: Storage,
    formats: Sequence[LabelFormat],
    part: int,
    images: Sequence[LabelledImage],
    vocabulary: Vocabulary,
    notice: str = "",
    tolerance: float = 1.0,
) -> dict[str, Any]:
    """Writes one part in every format; each file atomically. Returns what the part's record must remember: JSON.

    Args:
        notice: that weights are random, written into every format that has a place for it; else empty.
        tolerance: of polygons, in pixels.
    """
    record: dict[str, Any] = {}
    for wanted in formats:
        match wanted:
            case "coco-panoptic":
                write_panoptic(storage, part, images, vocabulary, notice)
            case "coco-instances":
                write_instances(storage, part, images, vocabulary, notice)
            case "semantic-png":
                write_semantic(storage, part, images, vocabulary)
            case "parquet":
                storage.write_bytes(f"parquet/{part_name(part)}.parquet", segment_table(images, vocabulary, notice))
            case "webdataset":
                record["shard"] = asdict(write_shard_of(storage, part, images))
                extensions = {image_extension(image.image_bytes) for image in images}
                record["columns"] = sorted(extensions | {PANOPTIC_EXTENSION, SEGMENTS_EXTENSION})
            case "labelme":
                write_labelme(storage, images, vocabulary, tolerance, notice)
            case "yolo":
                write_yolo(storage, images, tolerance)
            case "label-studio":
                write_label_studio(storage, part, images, vocabulary, notice)
            case "cvat":
                write_cvat(storage, part, images, vocabulary)
    return record

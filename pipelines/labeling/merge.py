"""What the parts wrote becomes the single file that some tools want, streamed: one part is in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

from frozenseg.types import Vocabulary
from pipelines.labeling.formats import LabelFormat
from pipelines.labeling.labelled import part_name
from pipelines.labeling.tools import CVAT_TAIL, cvat_head, studio_configuration, yolo_configuration
from shards import Storage

COCO_FILES = {"coco-panoptic": "panoptic.json", "coco-instances": "instances.json"}


def merge(storage: Storage, wanted: LabelFormat, parts: Sequence[int], vocabulary: Vocabulary) -> None:
    """Writes what the format has once for the whole corpus; nothing for formats that are files per part or image."""
    match wanted:
        case "coco-panoptic" | "coco-instances":
            _merge_coco(storage, wanted, parts)
        case "label-studio":
            with storage.writing("label-studio/tasks.json") as file:
                _write_list(file, (task for part in parts for task in _read(storage, wanted, part)))
                file.write(b"\n")
            storage.write_bytes("label-studio/label_config.xml", studio_configuration(vocabulary))
        case "cvat":
            _merge_cvat(storage, parts, vocabulary)
        case "yolo":
            storage.write_bytes("yolo/data.yaml", yolo_configuration(vocabulary))
        case "semantic-png" | "parquet" | "webdataset" | "labelme":
            pass


def _merge_coco(storage: Storage, wanted: str, parts: Sequence[int]) -> None:
    with storage.writing(f"{wanted}/{COCO_FILES[wanted]}") as file:
        first = _read(storage, wanted, parts[0])
        file.write(b'{"info": ' + json.dumps(first["info"]).encode())
        file.write(b', "categories": ' + json.dumps(first["categories"]).encode())
        for key in ("images", "annotations"):
            file.write(f', "{key}": '.encode())
            _write_list(file, _entries(storage, wanted, parts, key))
        file.write(b"}\n")


def _merge_cvat(storage: Storage, parts: Sequence[int], vocabulary: Vocabulary) -> None:
    head = cvat_head(vocabulary).encode()
    with storage.writing("cvat/annotations.xml") as file:
        file.write(head)
        for part in parts:
            content = storage.read_bytes(f"cvat/{part_name(part)}.xml")
            file.write(content.removeprefix(head).removesuffix(CVAT_TAIL.encode()))
        file.write(CVAT_TAIL.encode())


def _write_list(file: BinaryIO, entries: Iterable[Any]) -> None:
    file.write(b"[")
    separator = b""
    for entry in entries:
        file.write(separator + json.dumps(entry).encode())
        separator = b",\n"
    file.write(b"]")


def _entries(storage: Storage, wanted: str, parts: Sequence[int], key: str) -> Iterator[Any]:
    for part in parts:
        yield from _read(storage, wanted, part)[key]


def _read(storage: Storage, wanted: str, part: int) -> Any:
    return json.loads(storage.read_bytes(f"{wanted}/{part_name(part)}.json"))

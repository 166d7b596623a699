"""What labeling writes: one part of the corpus in each of the formats that people's tools open.

A format turns the labelled images of a part into files, whole in memory (a part is a few hundred images). At the end
what the parts wrote is merged, streaming, into the single file that some tools want.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from frozenseg.data import encode_id_map
from frozenseg.inference.files import coco_categories, coco_panoptic_annotation, dataset_ids, rle_of_segments
from frozenseg.types import EncodedSample, SegmentationOutput, ShardFile, Size, TruthSegment, Vocabulary
from shards import Storage, image_extension, write_shard_to
from shards.members import PANOPTIC_EXTENSION, SEGMENTS_EXTENSION

LabelFormat = Literal["coco-panoptic", "coco-instances", "semantic-png", "parquet", "webdataset"]
FORMATS: tuple[LabelFormat, ...] = ("coco-panoptic", "coco-instances", "semantic-png", "parquet", "webdataset")
MERGED = {"coco-panoptic": "panoptic.json", "coco-instances": "instances.json"}
"""Formats whose parts are merged into one file, and its name."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledImage:
    """Fields: number: of the image in the corpus, from 1: COCO's integer id; image_id: its text id, free of dots and
    slashes; file_name: as the corpus calls it; image_bytes: the original file; size; result: at that size; semantic
    [h,w] contiguous category of every pixel, negative where none, or None when no format asks for it."""

    number: int
    image_id: str
    file_name: str
    image_bytes: bytes
    size: Size
    result: SegmentationOutput
    semantic: npt.NDArray[np.int64] | None = None


def part_name(number: int) -> str:
    return f"part-{number:06d}"


def write_part(
    storage: Storage,
    formats: Sequence[LabelFormat],
    part: int,
    images: Sequence[LabelledImage],
    vocabulary: Vocabulary,
    notice: str = "",
) -> dict[str, Any]:
    """Writes one part in every format; each file atomically. Returns what the part's record must remember: JSON.

    Args:
        notice: that weights are random, written into every format that has a place for it; else empty.
    """
    record: dict[str, Any] = {}
    for wanted in formats:
        match wanted:
            case "coco-panoptic":
                _write_panoptic(storage, part, images, vocabulary, notice)
            case "coco-instances":
                _write_instances(storage, part, images, vocabulary, notice)
            case "semantic-png":
                _write_semantic(storage, part, images, vocabulary)
            case "parquet":
                storage.write_bytes(f"parquet/{part_name(part)}.parquet", _parquet(images, vocabulary, notice))
            case "webdataset":
                record["shard"] = asdict(_write_shard(storage, part, images))
                extensions = {image_extension(image.image_bytes) for image in images}
                record["columns"] = sorted(extensions | {PANOPTIC_EXTENSION, SEGMENTS_EXTENSION})
    return record


def _image_entries(images: Sequence[LabelledImage]) -> list[dict[str, Any]]:
    return [{"id": i.number, "file_name": i.file_name, "height": i.size[0], "width": i.size[1]} for i in images]


def _write_panoptic(
    storage: Storage, part: int, images: Sequence[LabelledImage], vocabulary: Vocabulary, notice: str
) -> None:
    annotations = []
    for image in images:
        entry, png = coco_panoptic_annotation(image.result, vocabulary, image.image_id)
        name = f"{part_name(part)}/{image.image_id}.png"
        storage.write_bytes(f"coco-panoptic/{name}", png)
        annotations.append({**entry, "image_id": image.number, "file_name": name})
    _write_coco(storage, f"coco-panoptic/{part_name(part)}.json", images, annotations, vocabulary, notice)


def _write_instances(
    storage: Storage, part: int, images: Sequence[LabelledImage], vocabulary: Vocabulary, notice: str
) -> None:
    annotations = []
    for image in images:
        things = SegmentationOutput(
            segment_ids=image.result.segment_ids, segments=tuple(s for s in image.result.segments if s.is_thing)
        )
        for entry, segment in zip(rle_of_segments(things, vocabulary, image.image_id), things.segments, strict=True):
            # Unique in the whole corpus without a count over parts: a million segments per image are room enough.
            number = image.number * 1_000_000 + segment.id
            annotations.append({**entry, "id": number, "image_id": image.number, "iscrowd": 0})
    _write_coco(storage, f"coco-instances/{part_name(part)}.json", images, annotations, vocabulary, notice)


def _write_coco(
    storage: Storage,
    name: str,
    images: Sequence[LabelledImage],
    annotations: list[dict[str, Any]],
    vocabulary: Vocabulary,
    notice: str,
) -> None:
    content = {
        "info": {"description": "frozenseg labels", "notice": notice},
        "images": _image_entries(images),
        "annotations": annotations,
        "categories": coco_categories(vocabulary),
    }
    storage.write_bytes(name, json.dumps(content).encode())


def _write_semantic(storage: Storage, part: int, images: Sequence[LabelledImage], vocabulary: Vocabulary) -> None:
    """Gray PNGs of the contiguous category: 8 bits with 255 for none, 16 bits with 65535 past 255 categories."""
    dtype, void = (np.uint8, 255) if len(vocabulary) <= 255 else (np.uint16, 65535)
    for image in images:
        assert image.semantic is not None, "the semantic format needs semantic maps"
        pixels = np.where(image.semantic < 0, void, image.semantic).astype(dtype)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        storage.write_bytes(f"semantic-png/{part_name(part)}/{image.image_id}.png", buffer.getvalue())


def _parquet(images: Sequence[LabelledImage], vocabulary: Vocabulary, notice: str) -> bytes:
    """One row a segment; the mask as COCO's compressed RLE."""
    import pyarrow as pa
    import pyarrow.parquet

    schema = pa.schema(
        {
            "image_id": pa.string(),
            "file_name": pa.string(),
            "height": pa.int32(),
            "width": pa.int32(),
            "segment_id": pa.int64(),
            "category_id": pa.int64(),
            "category": pa.string(),
            "is_thing": pa.bool_(),
            "score": pa.float32(),
            "area": pa.int64(),
            "box_xywh": pa.list_(pa.int32(), 4),
            "rle": pa.string(),
        },
        metadata={"notice": notice},
    )
    ids = dataset_ids(vocabulary)
    rows = [
        {
            "image_id": image.image_id,
            "file_name": image.file_name,
            "height": image.size[0],
            "width": image.size[1],
            "segment_id": segment.id,
            "category_id": ids[segment.category_id],
            "category": vocabulary.categories[segment.category_id].name,
            "is_thing": segment.is_thing,
            "score": segment.score,
            "area": segment.area,
            "box_xywh": entry["bbox"],
            "rle": entry["segmentation"]["counts"],
        }
        for image in images
        for segment, entry in zip(
            image.result.segments, rle_of_segments(image.result, vocabulary, image.image_id), strict=True
        )
    ]
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows, schema=schema), buffer)
    return buffer.getvalue()


def _write_shard(storage: Storage, part: int, images: Sequence[LabelledImage]) -> ShardFile:
    """A tar of a shard set: the original image with the result as its truth, ready to be trained on."""
    samples = (
        EncodedSample(
            image_id=image.image_id,
            image_bytes=image.image_bytes,
            panoptic_png=encode_id_map(image.result.segment_ids.cpu().numpy()),
            segments=tuple(
                TruthSegment(id=s.id, category_id=s.category_id, is_thing=s.is_thing, area=s.area)
                for s in image.result.segments
            ),
            file_name=image.file_name,
        )
        for image in images
    )
    return write_shard_to(Storage(f"{storage.address}/webdataset"), f"{part_name(part)}.tar", samples)


def merge(storage: Storage, wanted: LabelFormat, parts: Sequence[int]) -> None:
    """Joins the parts of a COCO format into one JSON. One part is in memory at a time."""
    with storage.writing(f"{wanted}/{MERGED[wanted]}") as file:
        first = _read_part(storage, wanted, parts[0])
        file.write(b'{"info": ' + json.dumps(first["info"]).encode())
        file.write(b', "categories": ' + json.dumps(first["categories"]).encode())
        for key in ("images", "annotations"):
            file.write(f', "{key}": ['.encode())
            separator = b""
            for text in _entries(storage, wanted, parts, key):
                file.write(separator + text)
                separator = b",\n"
            file.write(b"]")
        file.write(b"}\n")


def _entries(storage: Storage, wanted: LabelFormat, parts: Sequence[int], key: str) -> Iterator[bytes]:
    for part in parts:
        for entry in _read_part(storage, wanted, part)[key]:
            yield json.dumps(entry).encode()


def _read_part(storage: Storage, wanted: LabelFormat, part: int) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(storage.read_bytes(f"{wanted}/{part_name(part)}.json"))
    return content

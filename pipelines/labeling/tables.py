"""Rasters and tables: semantic PNGs, the Parquet table of segments, shards to train on."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from frozenseg.data import encode_id_map
from frozenseg.inference.files import dataset_ids, rle_of_segments
from frozenseg.types import EncodedSample, ShardFile, TruthSegment, Vocabulary
from pipelines.labeling.labelled import LabelledImage, part_name
from shards import Storage, write_shard_to


def write_semantic(storage: Storage, part: int, images: Sequence[LabelledImage], vocabulary: Vocabulary) -> None:
    """Gray PNGs of the contiguous category: 8 bits with 255 for none, 16 bits with 65535 past 255 categories."""
    dtype, void = (np.uint8, 255) if len(vocabulary) <= 255 else (np.uint16, 65535)
    for image in images:
        assert image.semantic is not None, "the semantic format needs semantic maps"
        labels = image.semantic.values()
        pixels = np.where(labels < 0, void, labels).astype(dtype)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        storage.write_bytes(f"semantic-png/{part_name(part)}/{image.image_id}.png", buffer.getvalue())


def segment_table(images: Sequence[LabelledImage], vocabulary: Vocabulary, notice: str) -> bytes:
    """Parquet with one row a segment; the mask as COCO's compressed RLE."""
    import pyarrow as pa

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
            image.segments, rle_of_segments(image.result(), vocabulary, image.image_id), strict=True
        )
    ]
    return parquet_bytes(rows, schema)


def parquet_bytes(rows: list[dict[str, Any]], schema: Any) -> bytes:
    """A Parquet file of a pyarrow schema."""
    import pyarrow as pa
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows, schema=schema), buffer)
    return buffer.getvalue()


def write_shard_of(storage: Storage, part: int, images: Sequence[LabelledImage]) -> ShardFile:
    """A tar of a shard set: the original image with the result as its truth, ready to be trained on."""
    samples = (
        EncodedSample(
            image_id=image.image_id,
            image_bytes=image.image_bytes,
            panoptic_png=encode_id_map(image.segment_ids.values()),
            segments=tuple(
                TruthSegment(id=s.id, category_id=s.category_id, is_thing=s.is_thing, area=s.area)
                for s in image.segments
            ),
            file_name=image.file_name,
        )
        for image in images
    )
    return write_shard_to(Storage(f"{storage.address}/webdataset"), f"{part_name(part)}.tar", samples)

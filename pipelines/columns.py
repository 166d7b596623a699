"""Our types <-> columns of arrays. Dicts of arrays exist at Ray Data's edge only, and are taken apart here only.

Every column has the batch axis first and, within one data set, a fixed shape per row, except the targets, whose number
of segments varies: those travel as bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from frozenseg.errors import UserInputError
from frozenseg.types import EncoderFeatures, FeatureKey, PanopticTarget, TrainingBatch
from pipelines.codec import Codec, allocate, decode_into, encode_into

Columns = dict[str, npt.NDArray[Any]]
LEVELS = ("clip_4", "clip_8", "clip_16", "clip_32")
DENSE, SAM, SOURCE = "clip_dense", "sam", "feature_source"
MASKS, MASK_SHAPE, CATEGORIES, THINGS = "target_masks", "target_shape", "target_categories", "target_things"
IMAGE_ID, EPOCH, INDEX, IS_PADDING, ERROR = "image_id", "epoch", "index", "is_padding", "error"
IMAGE, VALID_SIZE = "image", "valid_size"
READ_SECONDS, ENCODE_SECONDS, ENCODER, MADE_AT = "read_seconds", "encode_seconds", "encoder", "made_at"
"""What stages tell of themselves: work per image, who did it, when it was done (seconds since 1970)."""


def features_to_columns(features: EncoderFeatures, codec: Codec = "float32", with_dense: bool = True) -> Columns:
    """One row per image. `with_dense=False` leaves out the map that only the classifier reads, which training does not.

    The key of the features that come back names the codec: features of different codecs are different features.
    """
    columns: Columns = {}
    write_features(columns, slice(0, features.batch_size), features.batch_size, features, codec, with_dense)
    columns[SOURCE] = source_column(features.source, codec, features.batch_size)
    return columns


def write_features(
    columns: Columns, rows: slice, num_rows: int, features: EncoderFeatures, codec: Codec, with_dense: bool
) -> None:
    """Codes features straight into rows of a block's columns; maps that have no column yet get one of `num_rows`."""
    levels: list[tuple[str, Tensor]] = list(zip(LEVELS, features.clip_pyramid, strict=True))
    if with_dense:
        levels.append((DENSE, features.clip_dense))
    if features.sam.numel():
        levels.append((SAM, features.sam))
    for name, values in levels:
        if name not in columns:
            arrays = allocate((num_rows, *values.shape[1:]), codec)
            columns.update({_column(name, part): array for part, array in arrays.items()})
        encode_into({part: columns[_column(name, part)][rows] for part in _parts(columns, name)}, values)


def write_row(columns: Columns, row: int, num_rows: int, entry: Mapping[str, npt.NDArray[Any]]) -> None:
    """Copies an image's coded maps, each without the batch axis, into a row of a block's columns, as above."""
    for name, values in entry.items():
        if name not in columns:
            columns[name] = np.empty((num_rows, *values.shape), dtype=values.dtype)
        columns[name][row] = values


def rows_of(columns: Columns, start: int, count: int) -> Columns:
    """Some rows of a block, as views."""
    return {name: values[start : start + count] for name, values in columns.items()}


def source_column(key: FeatureKey, codec: Codec, num_rows: int) -> npt.NDArray[Any]:
    """What made the features of each row, the codec included."""
    source = key if codec == "float32" else replace(key, dtype=codec)
    return np.array([json.dumps(asdict(source))] * num_rows)


def columns_to_features(rows: Sequence[Mapping[str, npt.NDArray[Any]]], dtype: torch.dtype) -> EncoderFeatures:
    """Stacks the rows of several column batches, each with one copy, in the given dtype.

    Raises:
        UserInputError: the rows come from different encoders (see `stack_features`), or their maps differ in size.
    """
    sources = {str(source) for row in rows for source in row[SOURCE]}
    if len(sources) != 1:
        raise UserInputError(f"features of different encoders cannot be mixed: {sorted(sources)}")
    num_rows = sum(len(row[SOURCE]) for row in rows)

    def level(name: str) -> Tensor:
        if name not in rows[0]:
            return torch.zeros((num_rows, 0, 0, 0), dtype=dtype)
        out = torch.empty((num_rows, *rows[0][name].shape[1:]), dtype=dtype)
        position = 0
        for row in rows:
            arrays = {part: row[_column(name, part)] for part in _parts(row, name)}
            length = len(arrays[""])
            decode_into(out[position : position + length], arrays)
            position += length
        return out

    first, second, third, fourth = (level(name) for name in LEVELS)
    return EncoderFeatures(
        clip_pyramid=(first, second, third, fourth),
        clip_dense=level(DENSE),
        sam=level(SAM),
        source=FeatureKey(**json.loads(sources.pop())),
    )


def _parts(row: Mapping[str, npt.NDArray[Any]], name: str) -> tuple[str, ...]:
    return ("", "scale", "offset") if f"{name}.scale" in row else ("",)


def _column(name: str, part: str) -> str:
    return f"{name}.{part}" if part else name


def target_to_columns(targets: Sequence[PanopticTarget]) -> Columns:
    """Masks as packed bits: 8 pixels a byte."""
    return {
        MASKS: _bytes(np.packbits(target.masks.numpy()).tobytes() for target in targets),
        MASK_SHAPE: np.array([tuple(target.masks.shape) for target in targets], dtype=np.int64).reshape(-1, 3),
        CATEGORIES: _bytes(target.category_ids.numpy().astype("<i8").tobytes() for target in targets),
        THINGS: _bytes(target.is_thing.numpy().astype(np.uint8).tobytes() for target in targets),
    }


def columns_to_targets(columns: Mapping[str, npt.NDArray[Any]]) -> tuple[PanopticTarget, ...]:
    """The inverse of `target_to_columns`."""
    targets = []
    parts = zip(columns[MASKS], columns[MASK_SHAPE], columns[CATEGORIES], columns[THINGS], strict=True)
    for packed, shape, categories, things in parts:
        size = tuple(int(side) for side in shape)
        bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=int(np.prod(size)))
        targets.append(
            PanopticTarget(
                masks=torch.from_numpy(bits.view(np.bool_).reshape(size)),
                category_ids=torch.from_numpy(np.frombuffer(categories, dtype="<i8").astype(np.int64)),
                is_thing=torch.from_numpy(np.frombuffer(things, dtype=np.uint8).astype(np.bool_)),
            )
        )
    return tuple(targets)


def columns_to_training_batch(rows: Sequence[Mapping[str, npt.NDArray[Any]]], dtype: torch.dtype) -> TrainingBatch:
    """Column batches of the feature stream -> one batch for the training loop; unreadable samples count as padding."""
    return TrainingBatch(
        image_ids=tuple(str(image_id) for row in rows for image_id in row[IMAGE_ID]),
        features=columns_to_features(rows, dtype),
        targets=tuple(target for row in rows for target in columns_to_targets(row)),
        is_padding=tuple(
            bool(padding) or bool(error)
            for row in rows
            for padding, error in zip(row[IS_PADDING], row[ERROR], strict=True)
        ),
    )


def _bytes(values: Any) -> npt.NDArray[Any]:
    """An object array: numpy's own byte strings drop zeros at the end."""
    items = list(values)
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array

"""Writes the miniature world to disk in COCO's panoptic layout.

    FOLDER/train/ID.jpg, FOLDER/val/ID.jpg
    FOLDER/annotations/panoptic_train.json, panoptic_train/ID.png, and the same for val

`train` is decoder training's: only base categories and seen outlines exist in its scenes, so that neither the
annotations nor the pixels show what is held back. `val` shows everything. Each segment carries three keys beside
COCO's, which other readers ignore and the 2x2 report reads: `outline`, `look_seen` and `outline_seen`.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frozenseg.errors import UserInputError
from frozenseg.miniature.categories import full_vocabulary, training_vocabulary
from frozenseg.miniature.world import Contents, Scene, SceneSegment, make_scene
from frozenseg.types import EncodedSample, TruthSegment, Vocabulary

TRAIN_CONTENTS: Contents = "base"
VAL_CONTENTS: Contents = "all"


def write_dataset(folder: str | Path, num_train: int, num_val: int, seed: int = 0) -> Path:
    """A COCO panoptic data set of the miniature world; the same bytes from the same arguments and the same libjpeg.

    Args:
        folder: made when missing; must be empty otherwise.
        num_train: scenes for decoder training, of base categories only.
        num_val: scenes with all categories, of a series of their own.
        seed: 0 or more.

    Returns:
        The folder.

    Raises:
        UserInputError: a folder with something in it, a negative number, or no scene at all.
    """
    folder = Path(folder)
    if num_train < 0 or num_val < 0 or num_train + num_val == 0 or seed < 0:
        raise UserInputError(
            f"the miniature world needs at least one scene and no negative number; found {num_train} training and "
            f"{num_val} validation scenes, seed {seed}"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserInputError(
            f"{folder}: the miniature world is written into a new or empty folder; this one is not empty"
        )
    _write_split(folder, "train", training_vocabulary(), train_scenes(num_train, seed), first_id=1)
    _write_split(folder, "val", full_vocabulary(), val_scenes(num_val, seed), first_id=num_train + 1)
    return folder


def train_scenes(count: int, seed: int, first: int = 0) -> list[Scene]:
    """Scenes of base categories and seen outlines."""
    return [make_scene(seed, index, TRAIN_CONTENTS) for index in range(first, first + count)]


def val_scenes(count: int, seed: int, first: int = 0) -> list[Scene]:
    """Scenes of all categories and outlines."""
    return [make_scene(seed, index, VAL_CONTENTS) for index in range(first, first + count)]


def panoptic_png(segment_ids: NDArray[np.int32]) -> bytes:
    """COCO's panoptic PNG: id = R + 256 G + 65536 B."""
    colors = np.stack([segment_ids & 255, (segment_ids >> 8) & 255, (segment_ids >> 16) & 255], axis=-1)
    buffer = io.BytesIO()
    Image.fromarray(colors.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def encoded_sample(scene: Scene, image_id: str, vocabulary: Vocabulary) -> EncodedSample:
    """The scene as a sample of a data set with `vocabulary`, without a detour over the disk.

    Raises:
        UserInputError: a segment of a category that the vocabulary lacks.
    """
    index = {category.name: position for position, category in enumerate(vocabulary.categories)}
    missing = [segment.name for segment in scene.segments if segment.name not in index]
    if missing:
        raise UserInputError(f"scene {image_id}: the vocabulary {vocabulary.name!r} lacks {missing[0]!r}")
    return EncodedSample(
        image_id=image_id,
        image_bytes=scene.jpeg(),
        panoptic_png=panoptic_png(scene.segment_ids),
        segments=tuple(
            TruthSegment(id=s.id, category_id=index[s.name], is_thing=s.is_thing, area=s.area) for s in scene.segments
        ),
        file_name=f"{image_id}.jpg",
    )


def _write_split(folder: Path, split: str, vocabulary: Vocabulary, scenes: Sequence[Scene], first_id: int) -> None:
    pictures, annotations = folder / split, folder / "annotations"
    masks = annotations / f"panoptic_{split}"
    pictures.mkdir(parents=True, exist_ok=True)
    masks.mkdir(parents=True, exist_ok=True)
    dataset_ids = {category.name: category.dataset_id for category in vocabulary.categories}
    images: list[dict[str, Any]] = []
    entries: list[dict[str, Any]] = []
    for image_id, scene in enumerate(scenes, start=first_id):
        name = f"{image_id:012d}"
        height, width = scene.segment_ids.shape
        (pictures / f"{name}.jpg").write_bytes(scene.jpeg())
        (masks / f"{name}.png").write_bytes(panoptic_png(scene.segment_ids))
        images.append({"id": image_id, "file_name": f"{name}.jpg", "height": height, "width": width})
        segments = [_segment_entry(segment, scene, dataset_ids[segment.name]) for segment in scene.segments]
        entries.append({"image_id": image_id, "file_name": f"{name}.png", "segments_info": segments})
    document = {
        "info": {"description": f"frozenseg miniature world, {split}"},
        "images": images,
        "annotations": entries,
        "categories": [
            {"id": c.dataset_id, "name": c.name, "isthing": int(c.is_thing), "color": list(c.color or (0, 0, 0))}
            for c in vocabulary.categories
        ],
    }
    # The JSON comes last and whole: a folder with one is complete.
    partial = annotations / f"panoptic_{split}.json.partial"
    with partial.open("w", encoding="utf-8") as file:
        json.dump(document, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, annotations / f"panoptic_{split}.json")


def _segment_entry(segment: SceneSegment, scene: Scene, dataset_id: int | None) -> dict[str, Any]:
    rows, columns = np.nonzero(scene.segment_ids == segment.id)
    top, left = int(rows.min()), int(columns.min())
    return {
        "id": segment.id,
        "category_id": dataset_id,
        "iscrowd": 0,
        "area": segment.area,
        "bbox": [left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1],
        "outline": segment.outline,
        "look_seen": segment.look_seen,
        "outline_seen": segment.outline_seen,
    }

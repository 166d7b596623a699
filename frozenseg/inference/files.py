"""Pictures from files, folders and globs; results to overlays, COCO panoptic files and COCO RLE."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from frozenseg.data import encode_id_map
from frozenseg.data.images import IMAGE_SUFFIXES
from frozenseg.errors import MissingPathError, UserInputError
from frozenseg.types import Instances, SegmentationOutput, Vocabulary


def find_images(sources: Iterable[str | Path]) -> list[Path]:
    """Files as they are, folders with all pictures below them, globs (`**` crosses folders); sorted within each.

    Raises:
        MissingPathError: a source that leads to nothing.
        UserInputError: a folder without pictures.
    """
    found: list[Path] = []
    for source in sources:
        path = Path(source)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
            if not inside:
                raise UserInputError(f"folder {path} holds no pictures ({', '.join(IMAGE_SUFFIXES)})")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            matches = sorted(Path(name) for name in glob.glob(str(source), recursive=True))
            files = [match for match in matches if match.is_file()]
            if not files:
                raise MissingPathError(f"image {source} does not exist")
            found += files
    return list(dict.fromkeys(found))


def result_names(paths: Sequence[Path]) -> list[str]:
    """One name per picture for its results: the file's stem, and where stems repeat a number behind it."""
    names: list[str] = []
    taken: set[str] = set()
    for path in paths:
        name, number = path.stem, 2
        while name in taken:
            name, number = f"{path.stem}-{number}", number + 1
        taken.add(name)
        names.append(name)
    return names


def write_bytes(path: Path, data: bytes) -> None:
    """Atomically: the file is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with new.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Atomically, UTF-8."""
    write_bytes(path, (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode())


def write_picture(path: Path, picture: Image.Image) -> None:
    """Atomically, PNG."""
    import io

    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def dataset_ids(vocabulary: Vocabulary) -> list[int]:
    """What result files call each category: its data set's id, or its number counted from 1 where it has none."""
    own = [category.dataset_id for category in vocabulary.categories]
    if any(i is None for i in own) or len(set(own)) < len(own):
        return list(range(1, len(own) + 1))
    return [i for i in own if i is not None]


def coco_categories(vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """The `categories` of a COCO file."""
    ids = dataset_ids(vocabulary)
    pairs = zip(ids, vocabulary.categories, strict=True)
    return [{"id": i, "name": c.name, "isthing": int(c.is_thing)} for i, c in pairs]


def coco_panoptic_annotation(
    result: SegmentationOutput, vocabulary: Vocabulary, image_id: str
) -> tuple[dict[str, Any], bytes]:
    """An entry of `annotations` and the PNG it belongs to."""
    ids = dataset_ids(vocabulary)
    pixels = result.segment_ids.cpu().numpy()
    segments = [
        {
            "id": segment.id,
            "category_id": ids[segment.category_id],
            "iscrowd": 0,
            "area": segment.area,
            "bbox": bounding_box(pixels == segment.id),
            "score": round(segment.score, 5),
        }
        for segment in result.segments
    ]
    entry = {"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": segments}
    return entry, encode_id_map(pixels)


def rle_of_segments(result: SegmentationOutput, vocabulary: Vocabulary, image_id: str) -> list[dict[str, Any]]:
    """COCO results of a panoptic result, one per segment."""
    ids = dataset_ids(vocabulary)
    pixels = result.segment_ids.cpu().numpy()
    return [_rle(pixels == s.id, ids[s.category_id], s.score, image_id) for s in result.segments]


def rle_of_instances(result: Instances, vocabulary: Vocabulary, image_id: str) -> list[dict[str, Any]]:
    """COCO results of an instance result; empty masks are left out."""
    ids = dataset_ids(vocabulary)
    triples = zip(result.masks.cpu().numpy(), result.category_ids.tolist(), result.scores.tolist(), strict=True)
    return [_rle(mask, ids[category], score, image_id) for mask, category, score in triples if mask.any()]


def rle_of_labels(labels: NDArray[np.integer], vocabulary: Vocabulary, image_id: str) -> list[dict[str, Any]]:
    """COCO results of a semantic result [h,w], one per category that occurs; negative labels are none."""
    ids = dataset_ids(vocabulary)
    present = np.unique(labels[labels >= 0]).tolist()
    return [_rle(labels == category, ids[category], 1.0, image_id) for category in present]


def bounding_box(mask: NDArray[np.bool_]) -> list[int]:
    """[x, y, width, height] in pixels; zeros for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return [0, 0, 0, 0]
    return [
        int(columns[0]),
        int(rows[0]),
        int(columns[-1] - columns[0]) + 1,
        int(rows[-1] - rows[0]) + 1,
    ]


def _rle(mask: NDArray[np.bool_], category_id: int, score: float, image_id: str) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    counts = encoded["counts"].decode("ascii")
    return {
        "image_id": image_id,
        "category_id": category_id,
        "score": round(float(score), 5),
        "segmentation": {"size": [int(side) for side in encoded["size"]], "counts": counts},
        "area": int(mask.sum()),
        "bbox": bounding_box(mask),
    }

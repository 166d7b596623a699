"""A tiny COCO panoptic data set on disk, for tests that then break one thing of it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from frozenseg.data import encode_id_map

CATEGORIES = [
    {"id": 7, "name": "button", "isthing": 1, "color": [200, 0, 0]},
    {"id": 9, "name": "flag", "isthing": 1, "color": [0, 200, 0]},
    {"id": 30, "name": "water", "isthing": 0, "color": [0, 0, 200]},
]


def png_bytes(array: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", **options)
    return buffer.getvalue()


def id_map(height: int = 20, width: int = 30) -> np.ndarray:
    """Water (70000) with a button (5) and a crowd of flags (300) in it, and a void row at the top."""
    ids = np.full((height, width), 70000)
    ids[0] = 0
    ids[5:10, 5:12] = 5
    ids[12:18, 20:28] = 300
    return ids


def write_coco(root: Path, num_images: int = 2) -> dict[str, Any]:
    """Writes panoptic.json, images/ and panoptic/ below `root`; returns the JSON's content."""
    (root / "images").mkdir(parents=True)
    (root / "panoptic").mkdir()
    rng = np.random.default_rng(0)
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": CATEGORIES}
    for number in range(1, num_images + 1):
        ids = id_map()
        name = f"{number:06d}"
        Image.fromarray(rng.integers(0, 255, (*ids.shape, 3), dtype=np.uint8)).save(root / "images" / f"{name}.png")
        (root / "panoptic" / f"{name}.png").write_bytes(encode_id_map(ids))
        content["images"].append({"id": number, "file_name": f"{name}.png", "height": 20, "width": 30})
        segments = [
            {"id": i, "category_id": c, "iscrowd": crowd, "area": int((ids == i).sum())}
            for i, c, crowd in ((70000, 30, 0), (5, 7, 0), (300, 9, 1))
        ]
        content["annotations"].append({"image_id": number, "file_name": f"{name}.png", "segments_info": segments})
    write_json(root, content)
    return content


def write_json(root: Path, content: Any) -> None:
    (root / "panoptic.json").write_text(json.dumps(content))

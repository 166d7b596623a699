"""One sample of a release in its official layout, for tests of what comes after reading."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (24, 32)


def write_release(name: str, root: Path) -> None:
    """Writes a validation split of one image."""
    match name:
        case "own-semantic":
            root.mkdir()
            (root / "categories.txt").write_text("cup\nwater (stuff)\n")
            _picture(root / "images/val/1.png")
            _stripes(root / "labels/val/1.png", (0, 1, 255))
        case "own-instances":
            _picture(root / "val/1.jpg")
            _write_json(root / "annotations/instances_val.json", _instances({"file_name": "1.jpg"}))
        case "lvis":
            _picture(root / "val2017/1.jpg")
            extra = {"coco_url": "http://x/val2017/1.jpg", "neg_category_ids": [2], "not_exhaustive_category_ids": []}
            _write_json(root / "lvis_v1_val.json", _instances(extra))
        case "cityscapes-instances":
            stem = "lindau/lindau_000001_000019"
            _picture(root / f"leftImg8bit/val/{stem}_leftImg8bit.png")
            _stripes(root / f"gtFine/val/{stem}_gtFine_instanceIds.png", (7, 26001, 26, 0), np.uint16)
        case "ade20k-panoptic":
            _picture(root / "images/validation/ADE_val_1.jpg")
            _stripes(root / "annotations/validation/ADE_val_1.png", (1, 8))
            pixels = np.zeros((*SIZE, 3), dtype=np.uint8)
            pixels[:, 20:] = (1, 1, 0)
            _save(pixels, root / "annotations_instance/validation/ADE_val_1.png")
        case _:
            raise AssertionError(name)


def _picture(path: Path) -> None:
    _save(np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8), path)


def _stripes(path: Path, values: tuple[int, ...], dtype: type = np.uint8) -> None:
    width = -(-SIZE[1] // len(values))
    _save(np.array(values, dtype=dtype).repeat(width)[None, : SIZE[1]].repeat(SIZE[0], 0), path)


def _save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _instances(extra: dict[str, object]) -> dict[str, object]:
    polygon = [2, 2, 14, 2, 14, 14, 2, 14]
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 144, "bbox": [2, 2, 12, 12]}
    categories = [{"id": 1, "name": "cup", "frequency": "c"}, {"id": 2, "name": "table", "frequency": "f"}]
    return {
        "images": [{"id": 1, "height": SIZE[0], "width": SIZE[1], **extra}],
        "categories": categories,
        "annotations": [{**annotation, "segmentation": [polygon]}],
    }

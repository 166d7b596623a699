"""Runs where supervision, datumaro and label-studio-sdk are installed and frozenseg is not: reads each format with them
and writes every mask it finds as `FORMAT/IMAGE/CATEGORY-NUMBER.npy`. Arguments: folder of the scenes, folder to write
to, names of the categories as JSON.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np


def keep(to: Path, kind: str, image: str, category: int, mask: np.ndarray) -> None:
    folder = to / kind / image
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{category}-{len(list(folder.iterdir()))}.npy", np.asarray(mask, dtype=bool))


def read_with_supervision(folder: Path, to: Path, names: list[str]) -> None:
    import supervision

    labels = folder / "labels"
    sets = {
        "yolo": supervision.DetectionDataset.from_yolo(
            str(folder / "images"),
            str(labels / "yolo" / "labels"),
            str(labels / "yolo" / "data.yaml"),
            force_masks=True,
        ),
        "labelme": supervision.DetectionDataset.from_labelme(str(folder / "images"), str(labels / "labelme")),
        "coco-instances": supervision.DetectionDataset.from_coco(
            str(folder / "images"), str(labels / "coco-instances" / "instances.json"), force_masks=True
        ),
    }
    for kind, found in sets.items():
        for path, _, detections in found:
            masks = [] if detections.mask is None else detections.mask
            for mask, category in zip(masks, detections.class_id if len(masks) else [], strict=True):
                keep(to, kind, Path(path).stem, names.index(found.classes[category]), mask)


def read_with_datumaro(folder: Path, to: Path, names: list[str]) -> None:
    from datumaro.components.annotation import AnnotationType
    from datumaro.components.dataset import Dataset

    # It looks for `images/` beside the XML.
    path = shutil.copy(folder / "labels" / "cvat" / "annotations.xml", folder)
    found = Dataset.import_from(str(path), "cvat")
    labels = found.categories()[AnnotationType.label]
    for item in found:
        for annotation in item.annotations:
            keep(to, "cvat", Path(item.id).name, names.index(labels[annotation.label].name), annotation.image)


def read_with_label_studio(folder: Path, to: Path, names: list[str]) -> None:
    # The package's front door imports its HTTP client; the converter alone needs numpy and Pillow.
    where = importlib.util.find_spec("label_studio_sdk")
    assert where is not None
    assert where.submodule_search_locations
    path = Path(where.submodule_search_locations[0]) / "converter" / "brush.py"
    spec = importlib.util.spec_from_file_location("brush", path)
    assert spec is not None
    assert spec.loader is not None
    brush = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(brush)
    for task in json.loads((folder / "labels" / "label-studio" / "tasks.json").read_text()):
        for result in task["predictions"][0]["result"]:
            flat = brush.decode_rle(result["value"]["rle"])
            mask = flat.reshape(result["original_height"], result["original_width"], 4)[:, :, 3] > 0
            keep(to, "label-studio", task["data"]["image_id"], names.index(result["value"]["brushlabels"][0]), mask)


if __name__ == "__main__":
    scenes, target = Path(sys.argv[1]), Path(sys.argv[2])
    all_names = json.loads(sys.argv[3])
    read_with_label_studio(scenes, target, all_names)
    read_with_supervision(scenes, target, all_names)
    read_with_datumaro(scenes, target, all_names)

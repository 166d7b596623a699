"""COCO panoptic as its format page describes it, checked without any code of ours.

Source: cocodataset.org, "Data format", 4. Panoptic Segmentation; panopticapi's conventions for ids and colours.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image


def check_coco_panoptic(json_path: Path, png_folder: Path) -> list[str]:
    """Every departure from the format, one line each."""
    content = json.loads(json_path.read_text())
    found = [f"no {key}" for key in ("info", "images", "annotations", "categories") if key not in content]
    categories = {category["id"]: category for category in content["categories"]}
    images = {image["id"]: image for image in content["images"]}
    for name, entries in (("category", categories), ("image", images)):
        if len(entries) != len(content["categories" if name == "category" else "images"]):
            found.append(f"{name} ids occur twice")
        found += [f"{name} id {key!r} is no integer" for key in entries if type(key) is not int]
    for category in categories.values():
        if not isinstance(category.get("name"), str) or category.get("isthing") not in (0, 1):
            found.append(f"category {category} needs a name and isthing 0 or 1")
    annotated = [annotation["image_id"] for annotation in content["annotations"]]
    if sorted(annotated) != sorted(images):
        found.append("annotations and images do not match one to one")
    for annotation in content["annotations"]:
        where = annotation["file_name"]
        image = images[annotation["image_id"]]
        with Image.open(png_folder / where) as picture:
            if picture.format != "PNG" or picture.mode != "RGB":
                found.append(f"{where}: {picture.format} {picture.mode}, expected PNG RGB")
            pixels = np.asarray(picture).astype(np.int64)
        if pixels.shape[:2] != (image["height"], image["width"]):
            found.append(f"{where}: size {pixels.shape[:2]}")
        ids = pixels[..., 0] + 256 * pixels[..., 1] + 256**2 * pixels[..., 2]
        segments = {segment["id"]: segment for segment in annotation["segments_info"]}
        if len(segments) != len(annotation["segments_info"]):
            found.append(f"{where}: segment ids occur twice")
        if set(np.unique(ids).tolist()) - {0} != set(segments):
            found.append(f"{where}: ids of the PNG are not those of segments_info")
        for key, segment in segments.items():
            rows, columns = np.nonzero(ids == key)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1] if len(rows) else []
            if not (0 < key < 256**3) or segment["category_id"] not in categories or segment["iscrowd"] not in (0, 1):
                found.append(f"{where}: segment {segment}")
            if segment["area"] != len(rows) or list(segment["bbox"]) != box:
                found.append(f"{where}: segment {key} covers {len(rows)} pixels in {box}, not {segment}")
    return found

"""Labels for people's annotation tools: LabelMe, YOLO, CVAT and Label Studio.

CVAT and Label Studio take masks as they are. LabelMe and YOLO know polygons only:

- LabelMe: one polygon per connected part, parts of one segment under one `group_id`, holes cut open by a line there and
  back (see outlines.py).
- YOLO: one polygon per segment, parts joined by such lines too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from frozenseg.data.files import is_remote
from frozenseg.inference.files import bounding_box
from frozenseg.types import Vocabulary
from pipelines.labeling.brush import brush_rle
from pipelines.labeling.labelled import LabelledImage, Mask, mirrored, part_name
from pipelines.labeling.outlines import Ring, cut_open, joined, outlines
from shards import Storage

LABELME_VERSION = "5.5.0"
"""Of the file format that is written."""
STUDIO_FROM, STUDIO_TO = "label", "image"
"""Names of the tags in Label Studio's labeling configuration."""


def write_labelme(
    storage: Storage, images: Sequence[LabelledImage], vocabulary: Vocabulary, tolerance: float, notice: str
) -> None:
    """`labelme/PATH.json` for each image PATH: to be laid over the images' folder. Images are not copied into it."""
    for image in images:
        shapes = [
            {
                "label": vocabulary.categories[segment.category_id].name,
                "points": _rounded(cut_open(part)),
                "group_id": segment.id,
                "description": f"score {segment.score:.5f}",
                "shape_type": "polygon",
                "flags": {},
            }
            for segment, mask in image.masks()
            for part in outlines(mask, tolerance)
        ]
        content = {
            "version": LABELME_VERSION,
            "flags": {notice: True} if notice else {},
            "shapes": shapes,
            "imagePath": image.file_name.rpartition("/")[2],
            "imageData": None,
            "imageHeight": image.size[0],
            "imageWidth": image.size[1],
        }
        text = json.dumps(content, ensure_ascii=False, indent=1)
        storage.write_bytes(f"labelme/{mirrored(image.file_name, '.json')}", text.encode())


def write_yolo(storage: Storage, images: Sequence[LabelledImage], tolerance: float) -> None:
    """`yolo/labels/PATH.txt` for each image PATH: a line of category and polygon, in shares of width and height."""
    for image in images:
        height, width = image.size
        lines = []
        for segment, mask in image.masks():
            polygon = joined(outlines(mask, tolerance)) / (width, height)
            lines.append(" ".join([str(segment.category_id), *(f"{value:.6g}" for value in polygon.ravel())]))
        text = "".join(f"{line}\n" for line in lines)
        storage.write_bytes(f"yolo/labels/{mirrored(image.file_name, '.txt')}", text.encode())


def yolo_configuration(vocabulary: Vocabulary) -> bytes:
    """`data.yaml` for Ultralytics: `images/` is the corpus, to be put beside `labels/`."""
    names = [f"  {number}: {json.dumps(c.name, ensure_ascii=False)}" for number, c in enumerate(vocabulary.categories)]
    return "\n".join(["path: .", "train: images", "val: images", "names:", *names, ""]).encode()


def write_cvat(storage: Storage, part: int, images: Sequence[LabelledImage], vocabulary: Vocabulary) -> None:
    """`cvat/part-N.xml`, CVAT for images 1.1, masks run-length encoded in their box. A part can be imported alone."""
    body = "".join(_cvat_image(image, vocabulary) for image in images)
    storage.write_bytes(f"cvat/{part_name(part)}.xml", (cvat_head(vocabulary) + body + CVAT_TAIL).encode())


CVAT_TAIL = "</annotations>\n"


def cvat_head(vocabulary: Vocabulary) -> str:
    """The XML up to the first image."""
    labels = "".join(
        f"<label><name>{escape(c.name)}</name><type>mask</type><attributes></attributes></label>\n"
        for c in vocabulary.categories
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n'
        f"<meta><task><labels>\n{labels}</labels></task></meta>\n"
    )


def _cvat_image(image: LabelledImage, vocabulary: Vocabulary) -> str:
    height, width = image.size
    name = quoteattr(_printable(image.file_name))
    lines = [f'<image id="{image.number - 1}" name={name} width="{width}" height="{height}">\n']
    for segment, mask in image.masks():
        left, top, box_width, box_height = bounding_box(mask)
        runs = _runs(mask[top : top + box_height, left : left + box_width])
        lines.append(
            f'<mask label={quoteattr(vocabulary.categories[segment.category_id].name)} source="auto" '
            f'occluded="0" rle="{", ".join(map(str, runs))}" left="{left}" top="{top}" width="{box_width}" '
            f'height="{box_height}" z_order="0"></mask>\n'
        )
    return "".join([*lines, "</image>\n"])


def _printable(text: str) -> str:
    """Without the characters that XML cannot hold in any form."""
    return "".join(c if c.isprintable() else "_" for c in text)


def _runs(mask: Mask) -> list[int]:
    """Lengths of runs in rows, background first (perhaps of length 0)."""
    flat = mask.ravel()
    edges = np.flatnonzero(np.diff(flat.astype(np.int8))) + 1
    lengths = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *lengths] if flat[0] else lengths


def write_label_studio(
    storage: Storage, part: int, images: Sequence[LabelledImage], vocabulary: Vocabulary, notice: str
) -> None:
    """`label-studio/part-N.json`: tasks with brush masks as predictions, for a project with `label_config.xml`."""
    tasks = [_studio_task(image, vocabulary, notice) for image in images]
    storage.write_bytes(f"label-studio/{part_name(part)}.json", json.dumps(tasks, ensure_ascii=False).encode())


def _studio_task(image: LabelledImage, vocabulary: Vocabulary, notice: str) -> dict[str, Any]:
    height, width = image.size
    result = [
        {
            "id": f"{image.image_id}-{segment.id}",
            "from_name": STUDIO_FROM,
            "to_name": STUDIO_TO,
            "type": "brushlabels",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "score": round(segment.score, 5),
            "value": {
                "format": "rle",
                "rle": list(brush_rle(mask)),
                "brushlabels": [vocabulary.categories[segment.category_id].name],
            },
        }
        for segment, mask in image.masks()
    ]
    # Label Studio serves local files under this address when its local storage is switched on.
    address = image.address if is_remote(image.address) else f"/data/local-files/?d={image.file_name}"
    scores = [segment.score for segment in image.segments]
    return {
        "id": image.number,
        "data": {"image": address, "image_id": image.image_id},
        "predictions": [
            {
                "model_version": notice or "frozenseg",
                "score": round(min(scores, default=0.0), 5),
                "result": result,
            }
        ],
    }


def studio_configuration(vocabulary: Vocabulary) -> bytes:
    """The labeling configuration that the tasks' masks belong to."""
    labels = "".join(f"    <Label value={quoteattr(c.name)}/>\n" for c in vocabulary.categories)
    return (
        f'<View>\n  <Image name="{STUDIO_TO}" value="$image"/>\n  <BrushLabels name="{STUDIO_FROM}" '
        f'toName="{STUDIO_TO}">\n{labels}  </BrushLabels>\n</View>\n'
    ).encode()


def _rounded(ring: Ring) -> list[list[float]]:
    return [[round(float(x), 2), round(float(y), 2)] for x, y in ring]

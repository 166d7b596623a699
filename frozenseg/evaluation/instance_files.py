"""Scoring instance predictions in COCO's results format: a list of detections, with RLE or polygon masks, or boxes."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any, Literal

from frozenseg.data.coco_instances import read_box
from frozenseg.data.dataset import ApProtocol, InstanceData
from frozenseg.data.files import read_json
from frozenseg.data.rle import to_rle
from frozenseg.data.schema import image_key, require
from frozenseg.errors import UserInputError
from frozenseg.evaluation.average_precision import AveragePrecision
from frozenseg.evaluation.cityscapes_precision import CityscapesPrecision
from frozenseg.evaluation.instances import DetectedInstance, ImageInstances
from frozenseg.evaluation.lvis_precision import LvisPrecision
from frozenseg.types import Size, Vocabulary

PrecisionMetric = AveragePrecision | LvisPrecision | CityscapesPrecision


def precision_metric(
    data: InstanceData,
    seen: Any = None,
    *,
    vocabulary: Vocabulary | None = None,
    kind: Literal["segm", "bbox"] = "segm",
) -> PrecisionMetric:
    """Average precision by the protocol of the data set.

    Args:
        vocabulary: other names for the data set's categories.

    Raises:
        UserInputError: boxes, by a protocol that has masks only.
    """
    vocabulary = vocabulary or data.vocabulary
    if data.protocol is not ApProtocol.COCO and kind != "segm":
        raise UserInputError(f"average precision by the {data.protocol} protocol: expected masks (segm), found {kind}")
    match data.protocol:
        case ApProtocol.COCO:
            return AveragePrecision(vocabulary, seen, kind=kind)
        case ApProtocol.LVIS:
            return LvisPrecision(vocabulary, data.frequencies, seen)
        case ApProtocol.CITYSCAPES:
            return CityscapesPrecision(vocabulary, seen)


def score_instance_files(
    data: InstanceData,
    results_path: str | Path,
    *,
    kind: Literal["segm", "bbox"] = "segm",
    seen: Any = None,
) -> PrecisionMetric:
    """Average precision of a COCO results file, by the protocol of the data set that holds the truth.

    Raises:
        UserInputError: a missing key, or an image or category that the truth doesn't have; names file and image.
    """
    truth = {image.image_id: image for image in map(data.instances, range(len(data)))}
    sizes = {image_id: image.size for image_id, image in truth.items()}
    results = read_results(results_path, data.vocabulary, sizes, kind)
    metric = precision_metric(data, seen, kind=kind)
    for image_id, image in truth.items():
        metric.add(ImageInstances(truth=image, detections=tuple(results[image_id])))
    return metric


def read_results(
    path: str | Path, vocabulary: Vocabulary, sizes: dict[str, Size], kind: Literal["segm", "bbox"]
) -> dict[str, list[DetectedInstance]]:
    """Detections of each image of a COCO results JSON."""
    contiguous = {category.dataset_id: index for index, category in enumerate(vocabulary.categories)}
    content = read_json(path, "results JSON")
    if not isinstance(content, list):
        raise UserInputError(f"{path}: expected a list of detections, found {type(content).__name__}")
    results: dict[str, list[DetectedInstance]] = defaultdict(list)
    for position, entry in enumerate(content):
        place = f"{path}: detection {position}"
        image_id = _known_image(entry, sizes, place)
        category_id = _known_category(entry, contiguous, place)
        mask = None
        if kind == "segm":
            mask = to_rle(require(entry, "segmentation", dict, place), sizes[image_id], place)
        score = require(entry, "score", float, place)
        box = read_box(entry, mask, place)
        results[image_id].append(DetectedInstance(category_id=category_id, mask=mask, box=box, score=score))
    return results


def _known_image(entry: Any, sizes: dict[str, Size], place: str) -> str:
    image_id = image_key(entry, "image_id", place)
    if image_id not in sizes:
        raise UserInputError(f"{place}: expected an image_id of the truth's images, found {image_id!r}")
    return image_id


def _known_category(entry: Any, contiguous: dict[int | None, int], place: str) -> int:
    category_id = require(entry, "category_id", int, place)
    if category_id not in contiguous:
        raise UserInputError(f"{place}: expected a category_id of the truth's categories, found {category_id}")
    return contiguous[category_id]

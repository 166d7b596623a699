"""Scoring instance predictions in COCO's results format: a list of detections, with RLE or polygon masks, or boxes."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any, Literal

from pycocotools import mask as rle_tools

from frozenseg.data.coco_panoptic import read_categories
from frozenseg.data.files import read_json
from frozenseg.data.schema import image_key, require
from frozenseg.errors import UserInputError
from frozenseg.evaluation.average_precision import (
    AveragePrecision,
    Box,
    DetectedInstance,
    ImageInstances,
    Rle,
    TrueInstance,
    box_of,
)
from frozenseg.types import Size, Vocabulary


def score_instance_files(
    truth_path: str | Path, results_path: str | Path, *, kind: Literal["segm", "bbox"] = "segm", seen: Any = None
) -> AveragePrecision:
    """AP of a COCO results file against a COCO instances file.

    Raises:
        UserInputError: a missing key, or an image or category that the truth doesn't have; names file and image.
    """
    content = read_json(truth_path, "instances JSON")
    vocabulary = read_categories(content, str(truth_path), all_things=True)
    sizes, truth = read_instances(content, str(truth_path), vocabulary)
    results = read_results(results_path, vocabulary, sizes, kind)
    metric = AveragePrecision(vocabulary, seen, kind=kind)
    for image_id, size in sizes.items():
        metric.add(
            ImageInstances(
                image_id=image_id, size=size, truth=tuple(truth[image_id]), detections=tuple(results[image_id])
            )
        )
    return metric


def read_instances(
    content: Any, path: str, vocabulary: Vocabulary
) -> tuple[dict[str, Size], dict[str, list[TrueInstance]]]:
    """Size of every image, and the instances of each, of a COCO instances JSON."""
    contiguous = {category.dataset_id: index for index, category in enumerate(vocabulary.categories)}
    sizes: dict[str, Size] = {}
    for position, entry in enumerate(require(content, "images", list, path)):
        image_id = image_key(entry, "id", f"{path}: images[{position}]")
        place = f"{path}: image {image_id!r}"
        if image_id in sizes:
            raise UserInputError(f"{place}: expected every image once, found it twice")
        sizes[image_id] = (require(entry, "height", int, place), require(entry, "width", int, place))
    truth: dict[str, list[TrueInstance]] = defaultdict(list)
    for position, entry in enumerate(require(content, "annotations", list, path)):
        place = f"{path}: annotations[{position}]"
        image_id = _known_image(entry, sizes, place)
        category_id = _known_category(entry, contiguous, place)
        mask = to_rle(entry["segmentation"], sizes[image_id], place) if "segmentation" in entry else None
        truth[image_id].append(
            TrueInstance(
                category_id=category_id,
                mask=mask,
                box=_box(entry, mask, place),
                area=require(entry, "area", float, place),
                is_crowd=bool(require(entry, "iscrowd", int, place)) if "iscrowd" in entry else False,
            )
        )
    return sizes, truth


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
        box = _box(entry, mask, place)
        results[image_id].append(DetectedInstance(category_id=category_id, mask=mask, box=box, score=score))
    return results


def to_rle(segmentation: Any, size: Size, place: str) -> Rle:
    """The mask of a COCO "segmentation": polygons, plain or compressed run lengths.

    Raises:
        UserInputError: none of these, or a mask of another size than its image.
    """
    height, width = size
    counts = segmentation.get("counts") if isinstance(segmentation, dict) else None
    try:
        if isinstance(segmentation, list) and segmentation and all(map(_is_polygon, segmentation)):
            encoded = rle_tools.merge(rle_tools.frPyObjects(segmentation, height, width))
        elif isinstance(counts, list):
            encoded = rle_tools.frPyObjects(segmentation, height, width)
        elif isinstance(counts, str):
            encoded = {"size": list(segmentation["size"]), "counts": counts.encode()}
        else:
            raise TypeError(f"{segmentation!r:.60}")
        found = (int(encoded["size"][0]), int(encoded["size"][1]))
        pixels = int(rle_tools.area(encoded))
    except (TypeError, KeyError, IndexError, ValueError, OverflowError) as error:
        raise UserInputError(f"{place}: expected polygons or run lengths as segmentation, found {error}") from None
    if found != size:
        raise UserInputError(f"{place}: expected a mask of its image's size {size}, found {found}")
    if pixels > height * width:
        raise UserInputError(f"{place}: expected a mask of at most {height * width} pixels, found {pixels}")
    return Rle(size=size, counts=encoded["counts"].decode())


def _is_polygon(points: Any) -> bool:
    return (
        isinstance(points, list)
        and len(points) >= 6
        and len(points) % 2 == 0
        and all(isinstance(number, int | float) for number in points)
    )


def _box(entry: Any, mask: Rle | None, place: str) -> Box:
    if mask is not None and "bbox" not in entry:
        return box_of(mask)
    numbers = require(entry, "bbox", list, place)
    if len(numbers) != 4 or not all(isinstance(number, int | float) for number in numbers):
        raise UserInputError(f"{place}: expected 'bbox' to be [x, y, width, height], found {numbers!r:.60}")
    x, y, width, height = (float(number) for number in numbers)
    return x, y, width, height


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

"""Scoring panoptic predictions that anyone wrote in COCO's format: a JSON of annotations and a folder of PNGs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from frozenseg.data import CocoPanoptic, decode_annotation, decode_id_map
from frozenseg.data.coco_panoptic import PanopticEntry
from frozenseg.data.files import join, read_bytes, read_json
from frozenseg.data.schema import image_key, require
from frozenseg.errors import UserInputError
from frozenseg.evaluation.panoptic_quality import PanopticQuality
from frozenseg.types import EncodedSample, PanopticAnnotation, Segment, SegmentationOutput


class PanopticPredictions:
    """The predictions of one file, looked up by image id.

    Raises:
        UserInputError: a missing key or an image that is predicted twice; the message names file and image.
    """

    def __init__(self, json_path: str | Path, png_dir: str | Path, truth: CocoPanoptic) -> None:
        self.path, self.png_dir, self.truth = str(json_path), str(png_dir), truth
        self._annotations: dict[str, tuple[str, list[Any]]] = {}
        content = read_json(json_path, "predictions JSON")
        for position, entry in enumerate(require(content, "annotations", list, self.path)):
            image_id = image_key(entry, "image_id", f"{self.path}: annotations[{position}]")
            place = f"{self.path}: prediction of image {image_id!r}"
            if image_id in self._annotations:
                raise UserInputError(f"{place}: expected one, found a second")
            segments = require(entry, "segments_info", list, place)
            self._annotations[image_id] = (require(entry, "file_name", str, place), segments)

    def of_image(self, image_id: str) -> SegmentationOutput:
        """The prediction for one image, contiguous category ids; areas are left 0.

        Raises:
            UserInputError: no prediction for this image, a missing PNG, or a category that the truth doesn't have.
        """
        place = f"{self.path}: prediction of image {image_id!r}"
        if image_id not in self._annotations:
            raise UserInputError(f"{self.path}: expected a prediction of image {image_id!r}, found none")
        file_name, infos = self._annotations[image_id]
        png = read_bytes(join(self.png_dir, file_name), f"predicted PNG of image {image_id!r}")
        segments = tuple(self._segment(info, place) for info in infos)
        return SegmentationOutput(segment_ids=torch.from_numpy(decode_id_map(png, place)), segments=segments)

    def _segment(self, info: Any, place: str) -> Segment:
        dataset_id = require(info, "category_id", int, place)
        if dataset_id not in self.truth.contiguous_ids:
            raise UserInputError(f"{place}: expected a category_id of the truth's categories, found {dataset_id}")
        category_id = self.truth.contiguous_ids[dataset_id]
        is_thing = self.truth.vocabulary.categories[category_id].is_thing
        return Segment(
            id=require(info, "id", int, place), category_id=category_id, is_thing=is_thing, score=1.0, area=0
        )


def score_panoptic_files(truth: CocoPanoptic, predictions: PanopticPredictions, seen: Any = None) -> PanopticQuality:
    """PQ of all images of the truth, each of which must be predicted. Images aren't read, only annotations."""
    metric = PanopticQuality(truth.vocabulary, seen)
    for entry in truth.entries:
        metric.update(predictions.of_image(entry.image_id), true_annotation(truth, entry), entry.image_id)
    return metric


def true_annotation(truth: CocoPanoptic, entry: PanopticEntry) -> PanopticAnnotation:
    """The annotation of one image, without reading the image.

    Raises:
        UserInputError: a missing or damaged PNG.
    """
    png = read_bytes(join(truth.panoptic_dir, entry.panoptic_file), f"panoptic PNG of image {entry.image_id!r}")
    sample = EncodedSample(
        image_id=entry.image_id,
        image_bytes=b"",
        panoptic_png=png,
        segments=entry.segments,
        file_name=entry.panoptic_file,
    )
    return decode_annotation(sample)

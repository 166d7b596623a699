"""What the three protocols of average precision share: images with truth and detections, collected one by one.

Masks are kept run-length encoded, so a whole split fits in memory and travels between workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from frozenseg.data.dataset import InstanceTruth
from frozenseg.data.objects import objects_of
from frozenseg.data.rle import Box, Rle, box_of, encode_mask
from frozenseg.errors import UserInputError
from frozenseg.evaluation.counts import Bool, as_mask
from frozenseg.types import Instances, PanopticAnnotation, Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectedInstance:
    """box is (x, y, width, height) in pixels; mask is needed for AP of masks only."""

    category_id: int
    mask: Rle | None
    box: Box
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInstances:
    """Truth and detections of one image."""

    truth: InstanceTruth
    detections: tuple[DetectedInstance, ...] = ()

    @property
    def image_id(self) -> str:
        return self.truth.image_id


class InstanceMetric:
    """Collects images; merging is joining them, so the result cannot depend on how they were split over workers.

    Args:
        vocabulary: names the contiguous ids.
        seen: [K] bool, categories of the training vocabulary.
    """

    def __init__(self, vocabulary: Vocabulary, seen: Any = None) -> None:
        self.vocabulary = vocabulary
        self.seen: Bool | None = None if seen is None else as_mask(seen, len(vocabulary))
        self.images: dict[str, ImageInstances] = {}

    def update(self, prediction: Instances, truth: PanopticAnnotation, image_id: str) -> None:
        """Counts one image whose truth is panoptic: its things are the instances, area is counted in pixels.

        Raises:
            UserInputError: sizes differ, or the image was counted already.
        """
        self.update_instances(prediction, objects_of(truth, image_id))

    def update_instances(self, prediction: Instances, truth: InstanceTruth) -> None:
        """Counts one image whose truth are instances. Raises as `update`."""
        if len(prediction.scores) and tuple(prediction.masks.shape[1:]) != truth.size:
            raise UserInputError(
                f"image {truth.image_id!r}: expected masks of the truth's size {truth.size}, "
                f"found {tuple(prediction.masks.shape[1:])}"
            )
        self.add(ImageInstances(truth=truth, detections=detections_of(prediction)))

    def add(self, image: ImageInstances) -> None:
        """Counts one image whose instances are encoded already.

        Raises:
            UserInputError: the image was counted already.
        """
        if image.image_id in self.images:
            raise UserInputError(f"evaluation: expected every image once, found image {image.image_id!r} twice")
        self.images[image.image_id] = image

    def merge(self, other: InstanceMetric) -> None:
        """Takes in what another worker counted."""
        self.load_state(other.state())

    def state(self) -> list[ImageInstances]:
        """The images so far; `load_state` takes them back. Plain data that pickles small."""
        return list(self.images.values())

    def load_state(self, state: Sequence[ImageInstances]) -> None:
        """Takes in the images of a saved state."""
        for image in state:
            self.add(image)

    def ordered(self) -> list[ImageInstances]:
        """The images in order of their ids, so that ties are broken alike in every run."""
        return [self.images[image_id] for image_id in sorted(self.images)]


def detections_of(prediction: Instances) -> tuple[DetectedInstance, ...]:
    """Encodes a prediction's masks; the box is the mask's own."""
    masks = [encode_mask(mask) for mask in prediction.masks]
    return tuple(
        DetectedInstance(category_id=category, mask=mask, box=box_of(mask), score=score)
        for category, mask, score in zip(
            prediction.category_ids.tolist(), masks, prediction.scores.tolist(), strict=True
        )
    )


def mask_of(mask: Rle | None) -> Rle:
    """The mask, where average precision of masks needs one.

    Raises:
        UserInputError: there is only a box.
    """
    if mask is None:
        raise UserInputError("average precision of masks: expected a mask with every object, found only a box")
    return mask

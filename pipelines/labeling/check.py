"""A sample of labels for people to check, and how far the labels agree with what comes back corrected.

The sample is a COCO panoptic folder (`panoptic.json`, `images/`, `panoptic/`), which annotation tools and our own
readers open. A corrected copy of it, of all its images or of some, is the truth that the labels are held against.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from frozenseg.data import CocoPanoptic
from frozenseg.errors import UserInputError
from frozenseg.evaluation.bootstrap import Interval
from frozenseg.evaluation.panoptic_files import PanopticPredictions, score_panoptic_files, true_annotation
from pipelines.corpus import ImageReference, read_image_bytes
from pipelines.labeling.labelled import part_name
from pipelines.segmenter_pool import SETTINGS_NAME
from shards import MANIFEST_NAME, Storage, image_extension


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """An image of the sample: entries of `images` and `annotations`, and what stands in the JSON beside them."""

    image: dict[str, Any]
    annotation: dict[str, Any]
    categories: list[dict[str, Any]]
    info: dict[str, Any]


def draw_sample(labels: str, images: Sequence[ImageReference], to: str, count: int, seed: int) -> int:
    """Copies `count` labelled images, each as likely as any other, with their labels to `to`.

    Args:
        labels: a finished labeling folder with the format coco-panoptic.
        images: the corpus that was labelled.
        seed: the same gives the same images.

    Returns:
        How many there are: fewer than `count` where fewer are labelled.

    Raises:
        UserInputError: no such labels, or another corpus.
    """
    source, target = Storage(labels), Storage(to)
    if not source.exists(MANIFEST_NAME) or not source.exists("coco-panoptic/panoptic.json"):
        raise UserInputError(f"{labels}: expected finished labels in the format coco-panoptic, found none")
    settings = json.loads(source.read_bytes(SETTINGS_NAME))
    if settings["num_images"] != len(images):
        raise UserInputError(
            f"{labels}: expected the {settings['num_images']} images that were labelled, found {len(images)}"
        )
    numbers = list(range(1, len(images) + 1))
    random.Random(seed).shuffle(numbers)
    drawn: list[_Drawn] = []
    # Some of the corpus may be unreadable, and have no labels: then more are drawn.
    while numbers and len(drawn) < count:
        wanted = numbers[: count - len(drawn)]
        del numbers[: len(wanted)]
        drawn += _labelled(source, sorted(wanted), settings["images_per_part"])
    if not drawn:
        raise UserInputError(f"{labels}: expected labelled images, found none")
    for entry in drawn:
        reference = images[entry.image["id"] - 1]
        data = read_image_bytes(reference)
        png = source.read_bytes(f"coco-panoptic/{entry.annotation['file_name']}")
        entry.image["file_name"] = f"{reference.image_id}.{image_extension(data)}"
        entry.annotation["file_name"] = f"{reference.image_id}.png"
        target.write_bytes(f"images/{entry.image['file_name']}", data)
        target.write_bytes(f"panoptic/{entry.annotation['file_name']}", png)
    content = {
        "info": {**drawn[0].info, "labels": labels, "seed": seed},
        "categories": drawn[0].categories,
        "images": [entry.image for entry in drawn],
        "annotations": [entry.annotation for entry in drawn],
    }
    target.write_bytes("panoptic.json", json.dumps(content, indent=1).encode())
    return len(drawn)


def _labelled(source: Storage, numbers: Sequence[int], images_per_part: int) -> Iterator[_Drawn]:
    """Those of the images, ascending, that have labels. One part is in memory at a time."""
    for part, group in groupby(numbers, key=lambda number: (number - 1) // images_per_part):
        content = json.loads(source.read_bytes(f"coco-panoptic/{part_name(part)}.json"))
        images = {image["id"]: image for image in content["images"]}
        annotations = {annotation["image_id"]: annotation for annotation in content["annotations"]}
        for number in group:
            if number in images:
                yield _Drawn(
                    image=images[number],
                    annotation=annotations[number],
                    categories=content["categories"],
                    info=content["info"],
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Of labels with their correction.

    Fields: num_images: that came back; num_unchanged: of them, to the pixel; pixel_share: of all pixels, those with the
    same category (or none); quality: panoptic quality of the labels with the correction as truth, with its 95 %
    interval over images; missing, wrong: segments by category that the correction added, and that it took away or
    changed beyond recognition (IoU of at most 0.5).
    """

    num_images: int
    num_unchanged: int
    pixel_share: float
    quality: Interval
    missing: dict[str, int]
    wrong: dict[str, int]

    def text(self) -> str:
        """Lines for people."""
        lines = [
            f"{self.num_images} images, {self.num_unchanged} of them unchanged",
            f"{100 * self.pixel_share:.2f} % of the pixels keep their category",
            f"panoptic quality {100 * self.quality.value:.1f} "
            f"[{100 * self.quality.low:.1f}, {100 * self.quality.high:.1f}]",
        ]
        for name in sorted({*self.missing, *self.wrong}):
            lines.append(f"{name}: {self.missing.get(name, 0)} missing, {self.wrong.get(name, 0)} wrong")
        return "\n".join(lines)


def agreement(sample: str, corrected: str, seed: int = 0) -> Agreement:
    """Holds the labels of a sample against its corrected copy.

    Args:
        sample, corrected: folders as `draw_sample` makes them; the corrected one needs no images.
        seed: of the interval's bootstrap.

    Raises:
        UserInputError: either cannot be read, or the correction has an image that the sample has not.
    """
    truth = _opened(corrected)
    labels = PanopticPredictions(f"{sample}/panoptic.json", f"{sample}/panoptic", truth)
    metric = score_panoptic_files(truth, labels)
    num_unchanged = num_same = num_pixels = 0
    for entry in truth.entries:
        annotation = true_annotation(truth, entry)
        label = labels.of_image(entry.image_id)
        ours = _categories(label.segment_ids.numpy(), {s.id: s.category_id for s in label.segments})
        theirs = _categories(annotation.segment_ids.numpy(), {s.id: s.category_id for s in annotation.segments})
        num_same += int((ours == theirs).sum())
        num_pixels += ours.size
        num_unchanged += int((label.segment_ids == annotation.segment_ids).all() and (ours == theirs).all())
    scores = metric.compute()
    return Agreement(
        num_images=len(truth),
        num_unchanged=num_unchanged,
        pixel_share=num_same / num_pixels,
        quality=metric.interval("all", seed=seed),
        missing={c.name: c.false_negatives for c in scores.per_category if c.false_negatives},
        wrong={c.name: c.false_positives for c in scores.per_category if c.false_positives},
    )


def _opened(folder: str) -> CocoPanoptic:
    opened = CocoPanoptic(f"{folder}/panoptic.json", f"{folder}/images", f"{folder}/panoptic")
    if not len(opened):
        raise UserInputError(f"{folder}/panoptic.json: expected images, found none")
    return opened


def _categories(segment_ids: npt.NDArray[np.int32], category_of: dict[int, int]) -> npt.NDArray[np.int64]:
    """[h,w] contiguous category of every pixel, -1 where none."""
    found = np.full(segment_ids.shape, -1, dtype=np.int64)
    for segment_id, category in category_of.items():
        found[segment_ids == segment_id] = category
    return found

"""COCO instances: one JSON and a folder of images, which is how LVIS comes too.

Objects may overlap. A sample's panoptic form has them painted over each other, small ones in front; average precision
is computed on the objects themselves.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frozenseg.data.coco_panoptic import read_categories
from frozenseg.data.dataset import ApProtocol, Frequency, InstanceTruth, Task, TrueInstance
from frozenseg.data.files import join, read_bytes, read_json
from frozenseg.data.objects import paint
from frozenseg.data.panoptic_png import encode_id_map
from frozenseg.data.rle import Box, Rle, box_of, to_rle
from frozenseg.data.schema import image_key, require
from frozenseg.errors import UserInputError
from frozenseg.types import EncodedSample, Size, Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceEntry:
    """What the JSON says of one image. `annotations` are its objects as they are written there: masks are decoded when
    a sample is read, since a release holds a million of them. `absent` and `incomplete` are LVIS's."""

    image_id: str
    image_file: str
    size: Size
    annotations: tuple[dict[str, Any], ...]
    absent: tuple[int, ...] = ()
    incomplete: tuple[int, ...] = ()


class CocoInstances:
    """The samples of a COCO instances JSON, in the order of its images.

    Args:
        json_path, image_dir: paths or fsspec addresses.
        image_file: from an entry of the JSON's images to the file below `image_dir`; by default its "file_name".
        protocol: how average precision is computed on it.

    Raises:
        UserInputError: a missing or misshaped key, an id that occurs twice, an object of an unknown image or category;
            the message names the file and the place in it.
    """

    task = Task.INSTANCES

    def __init__(
        self,
        json_path: str | Path,
        image_dir: str | Path,
        *,
        image_file: Callable[[dict[str, Any], str], str] | None = None,
        protocol: ApProtocol = ApProtocol.COCO,
    ) -> None:
        self.json_path, self.image_dir, self.protocol = str(json_path), str(image_dir), protocol
        content = read_json(json_path, "instances JSON")
        self.vocabulary = read_categories(content, self.json_path, all_things=True)
        self.frequencies: Sequence[Frequency] = ()
        if protocol is ApProtocol.LVIS:
            self.vocabulary = _plain_names(self.vocabulary)
            self.frequencies = _frequencies(content, self.json_path)
        self.contiguous_ids = {category.dataset_id: k for k, category in enumerate(self.vocabulary.categories)}
        self.entries: Sequence[InstanceEntry] = self._read(content, image_file or file_name)

    def _read(self, content: Any, image_file: Callable[[dict[str, Any], str], str]) -> tuple[InstanceEntry, ...]:
        path = self.json_path
        images: dict[str, dict[str, Any]] = {}
        for position, entry in enumerate(require(content, "images", list, path)):
            image_id = image_key(entry, "id", f"{path}: images[{position}]")
            if image_id in images:
                raise UserInputError(f"{path}: image {image_id!r}: expected every image once, found it twice")
            images[image_id] = entry
        annotations: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for position, entry in enumerate(require(content, "annotations", list, path)):
            place = f"{path}: annotations[{position}]"
            image_id = image_key(entry, "image_id", place)
            if image_id not in images:
                raise UserInputError(f"{place}: expected an image_id of its images, found {image_id!r}")
            self._contiguous(require(entry, "category_id", int, place), place)
            annotations[image_id].append(entry)
        entries = []
        for image_id, entry in images.items():
            place = f"{path}: image {image_id!r}"
            entries.append(
                InstanceEntry(
                    image_id=image_id,
                    image_file=image_file(entry, place),
                    size=(require(entry, "height", int, place), require(entry, "width", int, place)),
                    annotations=tuple(annotations[image_id]),
                    absent=self._categories(entry, "neg_category_ids", place),
                    incomplete=self._categories(entry, "not_exhaustive_category_ids", place),
                )
            )
        return tuple(entries)

    def _categories(self, entry: dict[str, Any], key: str, place: str) -> tuple[int, ...]:
        if key not in entry:
            return ()
        return tuple(self._contiguous(number, place) for number in require(entry, key, list, place))

    def _contiguous(self, category_id: Any, place: str) -> int:
        if category_id not in self.contiguous_ids:
            raise UserInputError(f"{place}: expected a category_id of its categories, found {category_id!r}")
        return self.contiguous_ids[category_id]

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[EncodedSample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> EncodedSample:
        """Reads the image file and paints the panoptic form.

        Raises:
            UserInputError: the file is missing, or a mask isn't one.
        """
        entry = self.entries[index]
        ids, segments = paint(self.objects(index), entry.size, self.vocabulary)
        return EncodedSample(
            image_id=entry.image_id,
            image_bytes=read_bytes(join(self.image_dir, entry.image_file), f"image {entry.image_id!r}"),
            panoptic_png=encode_id_map(ids),
            segments=segments,
            file_name=entry.image_file,
        )

    def objects(self, index: int) -> tuple[TrueInstance, ...]:
        """The objects of one image. Raises UserInputError for a mask or box that is none."""
        entry = self.entries[index]
        return tuple(self._object(annotation, entry) for annotation in entry.annotations)

    def _object(self, annotation: dict[str, Any], entry: InstanceEntry) -> TrueInstance:
        place = f"{self.json_path}: annotation {annotation.get('id')!r} of image {entry.image_id!r}"
        mask = to_rle(annotation["segmentation"], entry.size, place) if "segmentation" in annotation else None
        return TrueInstance(
            category_id=self.contiguous_ids[annotation["category_id"]],
            mask=mask,
            box=read_box(annotation, mask, place),
            area=require(annotation, "area", float, place),
            is_crowd=bool(require(annotation, "iscrowd", int, place)) if "iscrowd" in annotation else False,
        )

    def instances(self, index: int) -> InstanceTruth:
        """The objects of one image, for average precision."""
        entry = self.entries[index]
        return InstanceTruth(
            image_id=entry.image_id,
            size=entry.size,
            objects=self.objects(index),
            absent=entry.absent,
            incomplete=entry.incomplete,
        )

    def identity(self) -> bytes:
        """The JSON's bytes."""
        return read_bytes(self.json_path, "instances JSON")

    def files(self) -> Sequence[tuple[str, Sequence[str]]]:
        """The image folder and its files."""
        return [(self.image_dir, [entry.image_file for entry in self.entries])]


def _plain_names(vocabulary: Vocabulary) -> Vocabulary:
    """LVIS joins the words of a name by underscores, which no text encoder has read."""
    categories = (dataclasses.replace(c, name=c.name.replace("_", " ")) for c in vocabulary.categories)
    return Vocabulary(categories=tuple(categories), name=vocabulary.name)


def _frequencies(content: Any, path: str) -> tuple[Frequency, ...]:
    letters = [require(c, "frequency", str, f"{path}: category {c['id']}") for c in content["categories"]]
    strange = [letter for letter in letters if letter not in list(Frequency)]
    if strange:
        raise UserInputError(f"{path}: categories: expected the frequency r, c or f, found {strange[0]!r}")
    return tuple(map(Frequency, letters))


def file_name(entry: dict[str, Any], place: str) -> str:
    """The image's file as COCO names it."""
    return require(entry, "file_name", str, place)


def file_of_url(entry: dict[str, Any], place: str) -> str:
    """The image's file as LVIS names it: the last two parts of its address at COCO (``val2017/000000000139.jpg``)."""
    return "/".join(require(entry, "coco_url", str, place).split("/")[-2:])


def read_box(entry: Any, mask: Rle | None, place: str) -> Box:
    """The "bbox" of an annotation or detection, or else the box of its mask.

    Raises:
        UserInputError: neither, or not four numbers.
    """
    if mask is not None and "bbox" not in entry:
        return box_of(mask)
    numbers = require(entry, "bbox", list, place)
    if len(numbers) != 4 or not all(isinstance(number, int | float) for number in numbers):
        raise UserInputError(f"{place}: expected 'bbox' to be [x, y, width, height], found {numbers!r:.60}")
    x, y, width, height = (float(number) for number in numbers)
    return x, y, width, height

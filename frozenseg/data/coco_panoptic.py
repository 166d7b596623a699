"""COCO panoptic as released: one JSON, a folder of images, a folder of PNGs. Our own data travels in this layout too.

Files expected: the JSON (``panoptic_train2017.json``), every ``images[].file_name`` below the image folder, every
``annotations[].file_name`` below the PNG folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frozenseg.data.dataset import Task
from frozenseg.data.files import join, read_bytes, read_json
from frozenseg.data.schema import image_key, require
from frozenseg.errors import UserInputError
from frozenseg.types import Category, EncodedSample, TruthSegment, Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class PanopticEntry:
    """What the JSON says of one image; `size` is (0, 0) where it says nothing."""

    image_id: str
    image_file: str
    panoptic_file: str
    segments: tuple[TruthSegment, ...]
    size: tuple[int, int] = (0, 0)


class CocoPanoptic:
    """The samples of a COCO panoptic data set, in the order of its images.

    Args:
        json_path, image_dir, panoptic_dir: paths or fsspec addresses.
        vocabulary: gives the contiguous ids: a category of the JSON belongs to the vocabulary's category with that
            dataset id, or, where the vocabulary has no dataset ids, to the one with that name. None: the JSON's own
            categories in their order.
        image_file: from the JSON's file name of an image to the file below `image_dir`, where releases differ.

    Raises:
        UserInputError: a missing or misshaped key, an id that occurs twice, a segment of a category that the JSON or
            the vocabulary doesn't have; the message names file, image id and key.
    """

    task = Task.PANOPTIC

    def __init__(
        self,
        json_path: str | Path,
        image_dir: str | Path,
        panoptic_dir: str | Path,
        vocabulary: Vocabulary | None = None,
        *,
        image_file: Callable[[str], str] = str,
    ) -> None:
        self.json_path, self.image_dir, self.panoptic_dir = str(json_path), str(image_dir), str(panoptic_dir)
        content = read_json(json_path, "panoptic JSON")
        own = read_categories(content, self.json_path)
        self.vocabulary = vocabulary or own
        self.contiguous_ids = match_categories(own, self.vocabulary)
        """Contiguous id of each dataset id of the JSON; categories outside the vocabulary are left out."""
        self.entries: Sequence[PanopticEntry] = read_entries(
            content, self.json_path, own, self.vocabulary, self.contiguous_ids, image_file
        )

    def identity(self) -> bytes:
        """The JSON's bytes."""
        return read_bytes(self.json_path, "panoptic JSON")

    def files(self) -> Sequence[tuple[str, Sequence[str]]]:
        """The image folder and the PNG folder, with their files."""
        images = [entry.image_file for entry in self.entries]
        return [(self.image_dir, images), (self.panoptic_dir, [entry.panoptic_file for entry in self.entries])]

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[EncodedSample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> EncodedSample:
        """Reads the two files of one sample; nothing is decoded.

        Raises:
            UserInputError: a file is missing.
        """
        entry = self.entries[index]
        return EncodedSample(
            image_id=entry.image_id,
            image_bytes=read_bytes(join(self.image_dir, entry.image_file), f"image {entry.image_id!r}"),
            panoptic_png=read_bytes(
                join(self.panoptic_dir, entry.panoptic_file), f"panoptic PNG of image {entry.image_id!r}"
            ),
            segments=entry.segments,
            file_name=entry.image_file,
        )


def read_categories(content: Any, path: str, *, all_things: bool = False) -> Vocabulary:
    """The categories of a COCO JSON in its order, `dataset_id` set.

    Args:
        all_things: for instance files, whose categories have no "isthing".

    Raises:
        UserInputError: a key is missing or an id occurs twice.
    """
    categories = []
    for position, entry in enumerate(require(content, "categories", list, path)):
        place = f"{path}: categories[{position}]"
        color = entry.get("color") if isinstance(entry, dict) else None
        rgb = (int(color[0]), int(color[1]), int(color[2])) if isinstance(color, list) and len(color) == 3 else None
        categories.append(
            Category(
                name=require(entry, "name", str, place),
                is_thing=all_things or bool(require(entry, "isthing", int, place)),
                dataset_id=require(entry, "id", int, place),
                color=rgb,
            )
        )
    _refuse_twice([category.dataset_id for category in categories], f"{path}: categories", "id")
    if not categories:
        raise UserInputError(f"{path}: expected at least one category, found an empty list")
    return Vocabulary(categories=tuple(categories), name=Path(path).stem)


def match_categories(own: Vocabulary, vocabulary: Vocabulary) -> dict[int, int]:
    """Contiguous id in `vocabulary` of each dataset id of `own`, by dataset id or else by name."""
    by_id = {c.dataset_id: index for index, c in enumerate(vocabulary.categories) if c.dataset_id is not None}
    by_name = {name: index for index, c in reversed(list(enumerate(vocabulary.categories))) for name in c.names}
    matched = {}
    for category in own.categories:
        assert category.dataset_id is not None  # read_categories sets it
        index = by_id.get(category.dataset_id) if by_id else by_name.get(category.name)
        if index is not None:
            matched[category.dataset_id] = index
    return matched


def read_entries(
    content: Any,
    path: str,
    own: Vocabulary,
    vocabulary: Vocabulary,
    contiguous_ids: dict[int, int],
    image_file: Callable[[str], str],
) -> tuple[PanopticEntry, ...]:
    """Joins images with their annotations."""
    known = {category.dataset_id for category in own.categories}
    annotations: dict[str, tuple[str, tuple[TruthSegment, ...]]] = {}
    for position, entry in enumerate(require(content, "annotations", list, path)):
        place = f"{path}: annotations[{position}]"
        image_id = image_key(entry, "image_id", place)
        place = f"{path}: annotation of image {image_id!r}"
        if image_id in annotations:
            raise UserInputError(f"{place}: expected one annotation, found a second")
        segments = []
        for segment in require(entry, "segments_info", list, place):
            category_id = require(segment, "category_id", int, place)
            if category_id not in known:
                raise UserInputError(f"{place}: expected a category_id of its categories, found {category_id}")
            if category_id not in contiguous_ids:
                raise UserInputError(
                    f"{place}: expected categories of the vocabulary {vocabulary.name!r}, found category {category_id}"
                )
            segments.append(_segment(segment, contiguous_ids[category_id], vocabulary, place))
        _refuse_twice([segment.id for segment in segments], place, "segment id")
        annotations[image_id] = (require(entry, "file_name", str, place), tuple(segments))

    entries = []
    for position, entry in enumerate(require(content, "images", list, path)):
        image_id = image_key(entry, "id", f"{path}: images[{position}]")
        place = f"{path}: image {image_id!r}"
        if image_id not in annotations:
            raise UserInputError(f"{place}: expected an entry in annotations with this image_id, found none")
        panoptic_file, segments_of_image = annotations[image_id]
        size = (
            (require(entry, "height", int, place), require(entry, "width", int, place)) if "height" in entry else (0, 0)
        )
        entries.append(
            PanopticEntry(
                image_id=image_id,
                image_file=image_file(require(entry, "file_name", str, place)),
                panoptic_file=panoptic_file,
                segments=segments_of_image,
                size=size,
            )
        )
    _refuse_twice([entry.image_id for entry in entries], f"{path}: images", "id")
    strangers = annotations.keys() - {entry.image_id for entry in entries}
    if strangers:
        raise UserInputError(f"{path}: annotation of image {min(strangers)!r}: expected this id in images, found none")
    return tuple(entries)


def _segment(segment: Any, category_id: int, vocabulary: Vocabulary, place: str) -> TruthSegment:
    return TruthSegment(
        id=require(segment, "id", int, place),
        category_id=category_id,
        is_thing=vocabulary.categories[category_id].is_thing,
        is_crowd=bool(require(segment, "iscrowd", int, place)) if "iscrowd" in segment else False,
        area=require(segment, "area", int, place) if "area" in segment else 0,
    )


def _refuse_twice(values: list[Any], place: str, what: str) -> None:
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            raise UserInputError(f"{place}: expected every {what} once, found {value!r} twice")
        seen.add(value)

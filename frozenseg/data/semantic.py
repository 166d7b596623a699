"""Semantic data sets: a folder of images and a folder of label files. They travel like everything else here, as
panoptic truth: one segment per category present, whose id is the contiguous category plus one."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from frozenseg.data.files import join, list_files, read_bytes
from frozenseg.data.images import IMAGE_SUFFIXES
from frozenseg.data.labels import decode_label_map, translate
from frozenseg.data.panoptic_png import encode_id_map
from frozenseg.errors import MissingPathError, UserInputError
from frozenseg.types import EncodedSample, TruthSegment, Vocabulary

LABEL_SUFFIXES = (".png", ".tif", ".tiff")


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticEntry:
    """One image and its label file, relative to their folders."""

    image_id: str
    image_file: str
    label_file: str


class SemanticFolder:
    """The samples of a semantic data set, in order of the images' names.

    Args:
        image_dir, label_dir: paths or fsspec addresses, searched to any depth.
        vocabulary: the categories.
        values: contiguous id of each value in the label files; pixels of other values have no truth.
        image_ending, label_ending: what follows the part of the name that image and label share
            (``_leftImg8bit.png``); empty: the file ending alone.
        names: the shared parts of the images to take, such as a split's list; None: every image.

    Raises:
        MissingPathError: a folder, or the label or image of a name, is missing.
        UserInputError: no image at all, or two with one name.
    """

    def __init__(
        self,
        image_dir: str | Path,
        label_dir: str | Path,
        vocabulary: Vocabulary,
        values: Mapping[int, int],
        *,
        image_ending: str = "",
        label_ending: str = "",
        names: tuple[str, ...] | None = None,
    ) -> None:
        self.image_dir, self.label_dir, self.vocabulary, self.values = (
            str(image_dir),
            str(label_dir),
            vocabulary,
            values,
        )
        images = _by_name(self.image_dir, IMAGE_SUFFIXES, image_ending)
        labels = _by_name(self.label_dir, LABEL_SUFFIXES, label_ending)
        chosen = sorted(images) if names is None else names
        if not chosen:
            raise UserInputError(f"{image_dir}: expected images ending in {image_ending or IMAGE_SUFFIXES}, found none")
        for name in chosen:
            if name not in images:
                raise MissingPathError(f"{image_dir}: expected an image named {name!r}, found none")
            if name not in labels:
                raise MissingPathError(f"{label_dir}: expected a label file for the image {images[name]}, found none")
        self.entries = tuple(
            SemanticEntry(
                image_id=name.replace("/", "-").replace(".", "_"), image_file=images[name], label_file=labels[name]
            )
            for name in chosen
        )
        ids = [entry.image_id for entry in self.entries]
        twice = sorted({image_id for image_id in ids if ids.count(image_id) > 1}) if len(set(ids)) < len(ids) else []
        if twice:
            raise UserInputError(f"{image_dir}: expected images of different names, found {twice[0]!r} twice")

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[EncodedSample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> EncodedSample:
        """Reads one sample and writes its labels as a panoptic PNG.

        Raises:
            UserInputError: a file is missing, or the labels don't decode.
        """
        entry = self.entries[index]
        label_file = join(self.label_dir, entry.label_file)
        labels = decode_label_map(read_bytes(label_file, f"labels of image {entry.image_id!r}"), label_file)
        ids = translate(labels, self.values) + 1
        present, areas = np.unique(ids[ids > 0], return_counts=True)
        segments = tuple(
            TruthSegment(
                id=number,
                category_id=number - 1,
                is_thing=self.vocabulary.categories[number - 1].is_thing,
                area=area,
            )
            for number, area in zip(present.tolist(), areas.tolist(), strict=True)
        )
        return EncodedSample(
            image_id=entry.image_id,
            image_bytes=read_bytes(join(self.image_dir, entry.image_file), f"image {entry.image_id!r}"),
            panoptic_png=encode_id_map(ids),
            segments=segments,
            file_name=entry.image_file,
        )


def _by_name(folder: str, suffixes: tuple[str, ...], ending: str) -> dict[str, str]:
    """File of each name, where a name is the file's path without its ending."""
    files = list_files(folder, (ending.lower(),) if ending else suffixes, recursive=True)
    names: dict[str, str] = {}
    for file in files:
        name = file[: -len(ending)] if ending else posixpath.splitext(file)[0]
        if name in names:
            raise UserInputError(f"{folder}: expected one file named {name!r}, found {names[name]} and {file}")
        names[name] = file
    return names

"""Data sets that are folders: images, and label files named like them. They travel like everything else here, as
panoptic truth."""

from __future__ import annotations

import dataclasses
import io
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from frozenseg.data.dataset import ApProtocol, Frequency, InstanceTruth, Task
from frozenseg.data.files import join, list_files, read_bytes
from frozenseg.data.images import IMAGE_SUFFIXES, decode_image
from frozenseg.data.labels import decode_label_map
from frozenseg.data.objects import objects_of
from frozenseg.data.panoptic_png import encode_id_map
from frozenseg.data.rle import encode_mask
from frozenseg.data.truth import CityscapesTruth, TruthReader, reduced_size
from frozenseg.errors import MissingPathError, UserInputError
from frozenseg.types import EncodedSample, PanopticAnnotation, Vocabulary

LABEL_SUFFIXES = (".png", ".tif", ".tiff")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFolder:
    """A folder of label files, searched to any depth. `ending` is what follows the part of the name that image and
    label share (``_gtFine_labelIds.png``); empty: the file ending alone."""

    path: str
    ending: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderEntry:
    """One image and its label files, relative to their folders."""

    image_id: str
    image_file: str
    label_files: tuple[str, ...]


class FolderData:
    """The samples of a data set in folders, in order of the images' names.

    Args:
        image_dir: path or fsspec address, searched to any depth.
        labels: one or more folders; every image has a file in each.
        vocabulary: the categories.
        truth: from the label files to panoptic truth.
        image_ending: what follows the part of the name that image and label share; empty: the file ending alone.
        id_is_file_name: folders are no part of an image's id, since its file name is unique by itself.
        names: the shared parts of the images to take, such as a split's list; None: every image.
        labelled_only: leave out names without a label file, where a list is longer than the labels.
        longest_short_side: images whose shorter side is longer are brought to it; 0 for never.
        task, protocol: what the truth is, and how average precision is computed on it.

    Raises:
        MissingPathError: a folder, or the label or image of a name, is missing.
        UserInputError: no image at all, or two with one name.
    """

    frequencies: Sequence[Frequency] = ()

    def __init__(
        self,
        image_dir: str | Path,
        labels: Sequence[LabelFolder],
        vocabulary: Vocabulary,
        truth: TruthReader,
        *,
        image_ending: str = "",
        id_is_file_name: bool = False,
        names: tuple[str, ...] | None = None,
        labelled_only: bool = False,
        longest_short_side: int = 0,
        task: Task = Task.SEMANTIC,
        protocol: ApProtocol = ApProtocol.COCO,
    ) -> None:
        self.image_dir, self.labels, self.vocabulary, self.truth = str(image_dir), tuple(labels), vocabulary, truth
        self.longest_short_side, self.task, self.protocol = longest_short_side, task, protocol
        images = _by_name(self.image_dir, IMAGE_SUFFIXES, image_ending)
        of_label = [_by_name(folder.path, LABEL_SUFFIXES, folder.ending) for folder in self.labels]
        chosen = sorted(images) if names is None else names
        if labelled_only:
            chosen = tuple(name for name in chosen if all(name in files for files in of_label))
        if not chosen:
            raise UserInputError(f"{image_dir}: expected images ending in {image_ending or IMAGE_SUFFIXES}, found none")
        for name in chosen:
            if name not in images:
                raise MissingPathError(f"{image_dir}: expected an image named {name!r}, found none")
            for folder, files in zip(self.labels, of_label, strict=True):
                if name not in files:
                    raise MissingPathError(
                        f"{folder.path}: expected a label file for the image {images[name]}, found none"
                    )
        self.entries: Sequence[FolderEntry] = tuple(
            FolderEntry(
                image_id=(posixpath.basename(name) if id_is_file_name else name.replace("/", "-")).replace(".", "_"),
                image_file=images[name],
                label_files=tuple(files[name] for files in of_label),
            )
            for name in chosen
        )
        ids = [entry.image_id for entry in self.entries]
        if len(set(ids)) < len(ids):
            twice = sorted(image_id for image_id in set(ids) if ids.count(image_id) > 1)
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
        truth = self.truth(self._label_bytes(entry), self._place(entry))
        image = read_bytes(join(self.image_dir, entry.image_file), f"image {entry.image_id!r}")
        return EncodedSample(
            image_id=entry.image_id,
            image_bytes=_reduced(image, entry, self.longest_short_side),
            panoptic_png=encode_id_map(truth.ids),
            segments=truth.segments,
            file_name=entry.image_file,
        )

    def identity(self) -> bytes:
        """Everything is in the files."""
        return b""

    def files(self) -> Sequence[tuple[str, Sequence[str]]]:
        """The image folder and each label folder, with their files."""
        of_label = [
            (folder.path, [entry.label_files[number] for entry in self.entries])
            for number, folder in enumerate(self.labels)
        ]
        return [(self.image_dir, [entry.image_file for entry in self.entries]), *of_label]

    def instances(self, index: int) -> InstanceTruth:
        """The things of one image, and by the Cityscapes protocol its void. Raises as reading a sample does."""
        entry = self.entries[index]
        files, place = self._label_bytes(entry), self._place(entry)
        truth = self.truth(files, place)
        annotation = PanopticAnnotation(segment_ids=torch.from_numpy(truth.ids), segments=truth.segments)
        objects = objects_of(annotation, entry.image_id)
        if self.protocol is not ApProtocol.CITYSCAPES:
            return objects
        void = encode_mask(CityscapesTruth.void(decode_label_map(files[0], place), self.vocabulary))
        return dataclasses.replace(objects, void=void)

    def _label_bytes(self, entry: FolderEntry) -> tuple[bytes, ...]:
        return tuple(
            read_bytes(join(folder.path, file), f"labels of image {entry.image_id!r}")
            for folder, file in zip(self.labels, entry.label_files, strict=True)
        )

    def _place(self, entry: FolderEntry) -> str:
        return join(self.labels[0].path, entry.label_files[0])


def _by_name(folder: str, suffixes: tuple[str, ...], ending: str) -> dict[str, str]:
    """File of each name, where a name is the file's path without its ending."""
    names: dict[str, str] = {}
    for file in list_files(folder, (ending.lower(),) if ending else suffixes, recursive=True):
        name = file[: -len(ending)] if ending else posixpath.splitext(file)[0]
        if name in names:
            raise UserInputError(f"{folder}: expected one file named {name!r}, found {names[name]} and {file}")
        names[name] = file
    return names


def _reduced(data: bytes, entry: FolderEntry, longest_short_side: int) -> bytes:
    """The image file, written anew (JPEG) when its shorter side is over the limit."""
    if not longest_short_side:
        return data
    sample = decode_image(data, entry.image_id, file_name=entry.image_file)
    size = reduced_size(sample.original_size, longest_short_side)
    if size == sample.original_size:
        return data
    picture = Image.fromarray(sample.image.permute(1, 2, 0).numpy())
    buffer = io.BytesIO()
    # Bilinear without antialiasing and Pillow's own JPEG quality, as in the published preparation.
    picture.transform(
        (size[1], size[0]),
        Image.Transform.AFFINE,
        (picture.width / size[1], 0, 0, 0, picture.height / size[0], 0),
        Image.Resampling.BILINEAR,
    ).save(buffer, "JPEG")
    return buffer.getvalue()

"""Opening a data set by its name, from the folder of its official release."""

from __future__ import annotations

from pathlib import Path

from frozenseg.data.coco_instances import CocoInstances
from frozenseg.data.coco_panoptic import CocoPanoptic
from frozenseg.data.dataset import ApProtocol, Task
from frozenseg.data.files import exists, join, read_bytes
from frozenseg.data.folders import FolderData, LabelFolder
from frozenseg.data.layout import FolderLayout, InstanceLayout, Layout, PanopticLayout
from frozenseg.data.releases import CITYSCAPES_INSTANCES, LAYOUTS
from frozenseg.data.truth import CityscapesTruth
from frozenseg.errors import MissingPathError, UserInputError
from frozenseg.types import Vocabulary
from frozenseg.vocabulary import load_vocabulary, read_vocabulary_file

CATEGORIES_FILE = "categories.txt"


def layout_of(name: str) -> Layout:
    """The layout of a data set.

    Raises:
        UserInputError: no such data set.
    """
    for layout in LAYOUTS:
        if layout.name == name:
            return layout
    raise UserInputError(f"no data set {name!r}; known: {', '.join(layout.name for layout in LAYOUTS)}")


def expected_paths(layout: Layout, root: str | Path, split: str) -> tuple[str, ...]:
    """Every file and folder that the data set consists of."""
    match layout:
        case PanopticLayout():
            parts = [layout.annotations, layout.images, layout.panoptic]
        case InstanceLayout():
            parts = [layout.annotations, layout.images or "{split}2017"]
        case FolderLayout():
            parts = list(dict.fromkeys([layout.images, *(folder.path for folder in layout.labels)]))
            parts += [layout.names] if layout.names else []
            parts += [] if layout.vocabulary else [CATEGORIES_FILE]
    return tuple(join(root, part.format(split=split)) for part in parts)


def open_dataset(name: str, root: str | Path, split: str = "") -> CocoPanoptic | CocoInstances | FolderData:
    """Opens a data set by its name; `root` is the folder of its release, `split` by default the validation split.

    Raises:
        UserInputError: no such data set or split, or defects that the readers name.
        MissingPathError: names every file and folder of the layout that isn't there.
    """
    layout = layout_of(name)
    split = split or layout.splits[0]
    if split not in layout.splits and not name.startswith("own-"):
        raise UserInputError(f"{name}: expected a split of {', '.join(layout.splits)}, found {split!r}")
    missing = [path for path in expected_paths(layout, root, split) if not exists(path)]
    if missing:
        raise MissingPathError(f"{name}: expected these of its release, found none of them: {', '.join(missing)}")
    match layout:
        case PanopticLayout():
            return _open_panoptic(layout, root, split)
        case InstanceLayout():
            return CocoInstances(
                join(root, layout.annotations.format(split=split)),
                join(root, layout.images.format(split=split)),
                image_file=layout.image_file,
                protocol=layout.protocol,
            )
        case FolderLayout():
            return _open_folders(layout, root, split)


def cityscapes_instances(folder: str | Path) -> FolderData:
    """The truth below a folder of Cityscapes (``gtFine/val``) without its images; only `instances` can be had of it.

    Raises:
        UserInputError: no instanceIds file there.
    """
    vocabulary = load_vocabulary("cityscapes")
    return FolderData(
        folder,
        [LabelFolder(path=str(folder), ending=CITYSCAPES_INSTANCES)],
        vocabulary,
        CityscapesTruth(vocabulary=vocabulary),
        image_ending=CITYSCAPES_INSTANCES,
        id_is_file_name=True,
        task=Task.INSTANCES,
        protocol=ApProtocol.CITYSCAPES,
    )


def _open_panoptic(layout: PanopticLayout, root: str | Path, split: str) -> CocoPanoptic:
    annotations, images, panoptic = expected_paths(layout, root, split)

    def image_file(file_name: str) -> str:
        if not layout.image_ending:
            return file_name
        stem = file_name.rsplit(".", 1)[0].removesuffix("_gtFine_leftImg8bit").removesuffix("_leftImg8bit")
        folder = stem.split("_", 1)[0] + "/" if layout.folders_of_names else ""
        return folder + stem + layout.image_ending

    vocabulary = load_vocabulary(layout.vocabulary) if layout.vocabulary else None
    return CocoPanoptic(annotations, images, panoptic, vocabulary, image_file=image_file)


def _open_folders(layout: FolderLayout, root: str | Path, split: str) -> FolderData:
    if layout.vocabulary:
        vocabulary = load_vocabulary(layout.vocabulary)
    else:
        vocabulary = read_vocabulary_file(join(root, CATEGORIES_FILE))
    if layout.only_things:
        things = tuple(category for category in vocabulary.categories if category.is_thing)
        vocabulary = Vocabulary(categories=things, name=f"{vocabulary.name}-things")
    names = None
    if layout.names:
        listed = read_bytes(join(root, layout.names.format(split=split)), "list of images")
        names = tuple(listed.decode("utf-8", "replace").split())
    return FolderData(
        join(root, layout.images.format(split=split)),
        [LabelFolder(path=join(root, f.path.format(split=split)), ending=f.ending) for f in layout.labels],
        vocabulary,
        layout.truth(vocabulary),
        image_ending=layout.image_ending,
        id_is_file_name=layout.id_is_file_name,
        names=names,
        labelled_only=layout.labelled_only,
        longest_short_side=layout.longest_short_side,
        task=layout.task,
        protocol=layout.protocol,
    )

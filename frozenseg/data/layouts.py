"""Public data sets in their official release layout: which files they consist of, and how to open them.

A layout is plain data. `{split}` in a path stands for the split, ``val`` unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from frozenseg.data.coco_panoptic import CocoPanoptic
from frozenseg.data.files import exists, join, read_bytes
from frozenseg.data.semantic import SemanticFolder
from frozenseg.errors import MissingPathError, UserInputError
from frozenseg.types import Vocabulary
from frozenseg.vocabulary import load_vocabulary, read_vocabulary_file


@dataclass(frozen=True, slots=True, kw_only=True)
class PanopticLayout:
    """COCO panoptic format. `vocabulary` is a published name, or empty: the JSON's own categories. `image_ending`
    replaces the ending of the JSON's file names; `folders_of_names` puts an image below the part of its name before
    the first underscore, as Cityscapes does."""

    name: str
    annotations: str
    images: str
    panoptic: str
    vocabulary: str = ""
    image_ending: str = ""
    folders_of_names: bool = False
    splits: tuple[str, ...] = ("val", "train")
    about: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticLayout:
    """Images and label files. A label's value minus `first_value` is the category's dataset id. `vocabulary` is a
    published name, or empty: read from ``categories.txt``. `names` is a text file with the split's image names."""

    name: str
    images: str
    labels: str
    vocabulary: str = ""
    image_ending: str = ""
    label_ending: str = ""
    first_value: int = 0
    names: str = ""
    splits: tuple[str, ...] = ("val", "train")
    about: str = ""


LAYOUTS: tuple[PanopticLayout | SemanticLayout, ...] = (
    PanopticLayout(
        name="coco-panoptic",
        annotations="annotations/panoptic_{split}2017.json",
        images="{split}2017",
        panoptic="annotations/panoptic_{split}2017",
        vocabulary="coco-panoptic",
        about="COCO 2017 panoptic; unpack the PNG archives where they lie, in annotations/.",
    ),
    PanopticLayout(
        name="own-panoptic",
        annotations="annotations/panoptic_{split}.json",
        images="{split}",
        panoptic="annotations/panoptic_{split}",
        about="Your own data in COCO panoptic format, and what frozenseg make-miniature writes.",
    ),
    SemanticLayout(
        name="own-semantic",
        images="images/{split}",
        labels="labels/{split}",
        about="Your own data: label PNGs whose values count the lines of categories.txt from 0; 255 is no label.",
    ),
    SemanticLayout(
        name="ade20k-semantic",
        images="images/{split}",
        labels="annotations/{split}",
        vocabulary="ade20k-150",
        first_value=1,
        splits=("validation", "training"),
        about="ADEChallengeData2016: 150 categories, label 0 is other.",
    ),
    PanopticLayout(
        name="cityscapes-panoptic",
        annotations="gtFine/cityscapes_panoptic_{split}.json",
        images="leftImg8bit/{split}",
        panoptic="gtFine/cityscapes_panoptic_{split}",
        vocabulary="cityscapes",
        image_ending="_leftImg8bit.png",
        folders_of_names=True,
        about="Cityscapes with the panoptic files that its own scripts write.",
    ),
    SemanticLayout(
        name="cityscapes-semantic",
        images="leftImg8bit/{split}",
        labels="gtFine/{split}",
        vocabulary="cityscapes",
        image_ending="_leftImg8bit.png",
        label_ending="_gtFine_labelIds.png",
        about="Cityscapes, the labelIds files as released.",
    ),
    PanopticLayout(
        name="mapillary-panoptic",
        annotations="{split}/panoptic/panoptic_2018.json",
        images="{split}/images",
        panoptic="{split}/panoptic",
        vocabulary="mapillary",
        image_ending=".jpg",
        splits=("validation", "training"),
        about="Mapillary Vistas 1.2.",
    ),
    SemanticLayout(
        name="mapillary-semantic",
        images="{split}/images",
        labels="{split}/labels",
        vocabulary="mapillary",
        first_value=-1,
        splits=("validation", "training"),
        about="Mapillary Vistas 1.2, palette labels; the last, unlabeled, is no category.",
    ),
    SemanticLayout(
        name="voc-20",
        images="JPEGImages",
        labels="SegmentationClass",
        vocabulary="voc-20",
        names="ImageSets/Segmentation/{split}.txt",
        about="PASCAL VOC 2012 (the folder VOC2012); the background is no category.",
    ),
    SemanticLayout(
        name="voc-21",
        images="JPEGImages",
        labels="SegmentationClass",
        vocabulary="voc-21",
        names="ImageSets/Segmentation/{split}.txt",
        about="PASCAL VOC 2012 (the folder VOC2012) with the background as a category.",
    ),
    SemanticLayout(
        name="bdd100k-semantic",
        images="images/10k/{split}",
        labels="labels/sem_seg/masks/{split}",
        vocabulary="bdd100k-semantic",
        about="BDD100K, 10k images, 19 categories.",
    ),
)


def layout_of(name: str) -> PanopticLayout | SemanticLayout:
    """The layout of a data set.

    Raises:
        UserInputError: no such data set.
    """
    for layout in LAYOUTS:
        if layout.name == name:
            return layout
    raise UserInputError(f"no data set {name!r}; known: {', '.join(layout.name for layout in LAYOUTS)}")


def expected_paths(layout: PanopticLayout | SemanticLayout, root: str | Path, split: str) -> tuple[str, ...]:
    """Every file and folder that the data set consists of."""
    if isinstance(layout, PanopticLayout):
        parts = [layout.annotations, layout.images, layout.panoptic]
    else:
        parts = [layout.images, layout.labels, *([layout.names] if layout.names else [])]
        parts += [] if layout.vocabulary else ["categories.txt"]
    return tuple(join(root, part.format(split=split)) for part in parts)


def open_dataset(name: str, root: str | Path, split: str = "") -> CocoPanoptic | SemanticFolder:
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
    if isinstance(layout, PanopticLayout):
        return _open_panoptic(layout, root, split)
    return _open_semantic(layout, root, split)


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


def _open_semantic(layout: SemanticLayout, root: str | Path, split: str) -> SemanticFolder:
    if layout.vocabulary:
        vocabulary = load_vocabulary(layout.vocabulary)
    else:
        vocabulary = read_vocabulary_file(join(root, "categories.txt"))
    names = None
    if layout.names:
        listed = read_bytes(join(root, layout.names.format(split=split)), "list of images")
        names = tuple(listed.decode("utf-8", "replace").split())
    return SemanticFolder(
        join(root, layout.images.format(split=split)),
        join(root, layout.labels.format(split=split)),
        vocabulary,
        label_values(vocabulary, layout.first_value),
        image_ending=layout.image_ending,
        label_ending=layout.label_ending,
        names=names,
    )


def label_values(vocabulary: Vocabulary, first_value: int = 0) -> Mapping[int, int]:
    """Contiguous id of each value in label files that hold dataset ids (or positions, where there are none) plus
    `first_value`."""
    return {
        (index if category.dataset_id is None else category.dataset_id) + first_value: index
        for index, category in enumerate(vocabulary.categories)
    }

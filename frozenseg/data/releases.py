"""The public data sets: which files their official releases consist of."""

from __future__ import annotations

from functools import cache
from importlib import resources

from frozenseg.data.coco_instances import file_of_url
from frozenseg.data.dataset import ApProtocol, Task
from frozenseg.data.folders import LabelFolder
from frozenseg.data.labels import decode_ade_full, decode_matlab
from frozenseg.data.layout import FolderLayout, InstanceLayout, Layout, PanopticLayout, Values
from frozenseg.data.truth import (
    AdeInstanceTruth,
    AdePanopticTruth,
    BddPanopticTruth,
    CityscapesTruth,
    TruthReader,
)
from frozenseg.types import Vocabulary
from frozenseg.vocabulary import load_vocabulary


@cache
def ade_instance_ids() -> dict[int, int]:
    """Number among the 150 of each of ADE20K's 100 instance categories, both counted from 1 as in the release."""
    table = resources.files("frozenseg.data").joinpath("tables", "ade20k-instances.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in table.splitlines() if line and not line.startswith("#")]
    return {int(instance): int(scene) for instance, scene in rows[1:]}


def _ade_panoptic(vocabulary: Vocabulary) -> TruthReader:
    categories = {instance: scene - 1 for instance, scene in ade_instance_ids().items()}
    return AdePanopticTruth(vocabulary=vocabulary, instance_categories=categories)


def _ade_instances(vocabulary: Vocabulary) -> TruthReader:
    of_id = {category.dataset_id: index for index, category in enumerate(vocabulary.categories)}
    categories = {instance: of_id[scene - 1] for instance, scene in ade_instance_ids().items()}
    return AdeInstanceTruth(vocabulary=vocabulary, instance_categories=categories)


def _bdd_panoptic(vocabulary: Vocabulary) -> TruthReader:
    return BddPanopticTruth(vocabulary=vocabulary)


def _cityscapes(vocabulary: Vocabulary) -> TruthReader:
    return CityscapesTruth(vocabulary=vocabulary)


def _context_59_values(vocabulary: Vocabulary) -> dict[int, int]:
    """The 59 categories among the values of the 459: by name, since the release has no other table."""
    values = {name: v for v, c in enumerate(load_vocabulary("context-459").categories, start=1) for name in c.names}
    official = {"diningtable": "table"}
    found = {}
    for index, category in enumerate(vocabulary.categories):
        value = next(values[official.get(name, name)] for name in category.names if official.get(name, name) in values)
        found[value] = index
    return found


ADE_SPLITS = ("validation", "training")
VOC_NAMES = "ImageSets/Segmentation/{split}.txt"
ADE_LABELS = LabelFolder(path="annotations/{split}")
ADE_INSTANCES = LabelFolder(path="annotations_instance/{split}")
CITYSCAPES_IMAGE, CITYSCAPES_INSTANCES = "_leftImg8bit.png", "_gtFine_instanceIds.png"

LAYOUTS: tuple[Layout, ...] = (
    PanopticLayout(
        name="coco-panoptic",
        annotations="annotations/panoptic_{split}2017.json",
        images="{split}2017",
        panoptic="annotations/panoptic_{split}2017",
        vocabulary="coco-panoptic",
        about="COCO 2017 panoptic; unpack the PNG archives where they lie, in annotations/.",
    ),
    InstanceLayout(
        name="coco-instances",
        annotations="annotations/instances_{split}2017.json",
        images="{split}2017",
        about="COCO 2017 instances, 80 categories.",
    ),
    PanopticLayout(
        name="own-panoptic",
        annotations="annotations/panoptic_{split}.json",
        images="{split}",
        panoptic="annotations/panoptic_{split}",
        about="Your own data in COCO panoptic format, and what frozenseg make-miniature writes.",
    ),
    InstanceLayout(
        name="own-instances",
        annotations="annotations/instances_{split}.json",
        images="{split}",
        about="Your own data in COCO instances format: polygons or run lengths.",
    ),
    FolderLayout(
        name="own-semantic",
        images="images/{split}",
        labels=(LabelFolder(path="labels/{split}"),),
        about="Your own data: label PNGs whose values count the lines of categories.txt from 0; 255 is no label.",
    ),
    FolderLayout(
        name="ade20k-semantic",
        images="images/{split}",
        labels=(ADE_LABELS,),
        truth=Values(first_value=1),
        vocabulary="ade20k-150",
        splits=ADE_SPLITS,
        about="ADEChallengeData2016: 150 categories, label 0 is other.",
    ),
    FolderLayout(
        name="ade20k-panoptic",
        images="images/{split}",
        labels=(ADE_LABELS, ADE_INSTANCES),
        truth=_ade_panoptic,
        vocabulary="ade20k-150",
        task=Task.PANOPTIC,
        splits=ADE_SPLITS,
        about="ADEChallengeData2016 with annotations_instance unpacked in it: 150 categories, 100 of them things.",
    ),
    FolderLayout(
        name="ade20k-instances",
        images="images/{split}",
        labels=(ADE_INSTANCES,),
        truth=_ade_instances,
        vocabulary="ade20k-150",
        only_things=True,
        task=Task.INSTANCES,
        splits=ADE_SPLITS,
        about="ADEChallengeData2016 with annotations_instance unpacked in it: the 100 things.",
    ),
    FolderLayout(
        name="ade20k-full",
        images="images/ADE/{split}",
        image_ending=".jpg",
        id_is_file_name=True,
        labels=(LabelFolder(path="images/ADE/{split}", ending="_seg.png"),),
        truth=Values(decode=decode_ade_full, longest_short_side=512),
        vocabulary="ade20k-847",
        longest_short_side=512,
        splits=ADE_SPLITS,
        about="ADE20K_2021_17_01: 847 categories, shorter sides over 512 brought to 512; the index file isn't needed.",
    ),
    PanopticLayout(
        name="cityscapes-panoptic",
        annotations="gtFine/cityscapes_panoptic_{split}.json",
        images="leftImg8bit/{split}",
        panoptic="gtFine/cityscapes_panoptic_{split}",
        vocabulary="cityscapes",
        image_ending=CITYSCAPES_IMAGE,
        folders_of_names=True,
        about="Cityscapes with the panoptic files that its own scripts write.",
    ),
    FolderLayout(
        name="cityscapes-semantic",
        images="leftImg8bit/{split}",
        labels=(LabelFolder(path="gtFine/{split}", ending="_gtFine_labelIds.png"),),
        vocabulary="cityscapes",
        image_ending=CITYSCAPES_IMAGE,
        id_is_file_name=True,
        about="Cityscapes, the labelIds files as released.",
    ),
    FolderLayout(
        name="cityscapes-instances",
        images="leftImg8bit/{split}",
        labels=(LabelFolder(path="gtFine/{split}", ending=CITYSCAPES_INSTANCES),),
        truth=_cityscapes,
        vocabulary="cityscapes",
        image_ending=CITYSCAPES_IMAGE,
        id_is_file_name=True,
        task=Task.INSTANCES,
        protocol=ApProtocol.CITYSCAPES,
        about="Cityscapes, the instanceIds files as released; groups are crowds.",
    ),
    PanopticLayout(
        name="mapillary-panoptic",
        annotations="{split}/panoptic/panoptic_2018.json",
        images="{split}/images",
        panoptic="{split}/panoptic",
        vocabulary="mapillary",
        image_ending=".jpg",
        splits=ADE_SPLITS,
        about="Mapillary Vistas 1.2.",
    ),
    FolderLayout(
        name="mapillary-semantic",
        images="{split}/images",
        labels=(LabelFolder(path="{split}/labels"),),
        truth=Values(first_value=-1),
        vocabulary="mapillary",
        splits=ADE_SPLITS,
        about="Mapillary Vistas 1.2, palette labels; the last, unlabeled, is no category.",
    ),
    FolderLayout(
        name="voc-20",
        images="JPEGImages",
        labels=(LabelFolder(path="SegmentationClass"),),
        vocabulary="voc-20",
        names=VOC_NAMES,
        about="PASCAL VOC 2012 (the folder VOC2012); the background is no category.",
    ),
    FolderLayout(
        name="voc-21",
        images="JPEGImages",
        labels=(LabelFolder(path="SegmentationClass"),),
        vocabulary="voc-21",
        names=VOC_NAMES,
        about="PASCAL VOC 2012 (the folder VOC2012) with the background as a category.",
    ),
    FolderLayout(
        name="context-59",
        images="JPEGImages",
        labels=(LabelFolder(path="trainval", ending=".mat"),),
        truth=Values(values=_context_59_values, decode=decode_matlab),
        vocabulary="context-59",
        names="ImageSets/Main/{split}.txt",
        labelled_only=True,
        about="PASCAL Context: the folder VOC2010 with the release's trainval/ (MATLAB files) unpacked in it.",
    ),
    FolderLayout(
        name="context-459",
        images="JPEGImages",
        labels=(LabelFolder(path="trainval", ending=".mat"),),
        truth=Values(first_value=1, decode=decode_matlab),
        vocabulary="context-459",
        names="ImageSets/Main/{split}.txt",
        labelled_only=True,
        about="PASCAL Context with all 459 categories, from the same files.",
    ),
    FolderLayout(
        name="bdd100k-semantic",
        images="images/10k/{split}",
        labels=(LabelFolder(path="labels/sem_seg/masks/{split}"),),
        vocabulary="bdd100k-semantic",
        about="BDD100K, 10k images, 19 categories.",
    ),
    FolderLayout(
        name="bdd100k-panoptic",
        images="images/10k/{split}",
        labels=(LabelFolder(path="labels/pan_seg/bitmasks/{split}"),),
        truth=_bdd_panoptic,
        vocabulary="bdd100k-panoptic",
        task=Task.PANOPTIC,
        about="BDD100K, 10k images, 40 categories; crowds are crowds, ignored segments are void.",
    ),
    InstanceLayout(
        name="lvis",
        annotations="lvis_v1_{split}.json",
        images="",
        image_file=file_of_url,
        protocol=ApProtocol.LVIS,
        about="LVIS v1 beside COCO's train2017/ and val2017/; 1203 categories, rare, common and frequent.",
    ),
)

"""What a model is evaluated on: a shard set, or a data set in the layout of its release; and by which names."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from frozenseg.data import CocoPanoptic
from frozenseg.data.dataset import InstanceData, InstanceTruth, SegmentationData, Task
from frozenseg.data.files import absolute
from frozenseg.data.layouts import open_dataset
from frozenseg.errors import UserInputError
from frozenseg.types import Vocabulary
from frozenseg.vocabulary import load_vocabulary
from pipelines.shard import fingerprint
from shards import MANIFEST_NAME, ShardReader, Storage

MAX_RENAMED_SHARE = 0.1
"""Of the categories that may have new names only: the published lists call a light "lamp" and a road "street"."""
TruthData = ShardReader | SegmentationData


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """Where samples with truth lie: a shard set, a COCO panoptic data set by its three paths, or the release of a
    named data set."""

    shards: str = ""
    json: str = ""
    images: str = ""
    panoptic: str = ""
    dataset: str = ""
    root: str = ""
    split: str = ""

    @classmethod
    def at(cls, address: str) -> DataSource:
        """A shard set, or a folder with panoptic.json, images/ and panoptic/.

        Raises:
            UserInputError: neither.
        """
        storage = Storage(absolute(address))
        if storage.exists(MANIFEST_NAME):
            return cls(shards=storage.address)
        if storage.exists("panoptic.json"):
            root = storage.address
            return cls(json=f"{root}/panoptic.json", images=f"{root}/images", panoptic=f"{root}/panoptic")
        raise UserInputError(
            f"{address}: expected a shard set (with {MANIFEST_NAME}) or a COCO panoptic folder (with panoptic.json, "
            "images/ and panoptic/), found neither"
        )

    @classmethod
    def chosen(cls, data: str, dataset: str, root: str, split: str) -> DataSource:
        """What the command line says: an address, or the name of a data set and the folder of its release.

        Raises:
            UserInputError: both or neither, or a name without a folder.
        """
        if bool(data) == bool(dataset):
            found = "both" if data else "neither"
            raise UserInputError(f"expected --data ADDRESS or --dataset NAME --root DIR, found {found}")
        if data:
            return cls.at(data)
        if not root:
            raise UserInputError(f"--dataset {dataset}: expected --root, the folder of its release")
        return cls(dataset=dataset, root=absolute(root), split=split)

    def open(self) -> TruthData:
        """Raises as the readers do."""
        if self.shards:
            return ShardReader(self.shards)
        if self.dataset:
            return open_dataset(self.dataset, self.root, self.split)
        return CocoPanoptic(self.json, self.images, self.panoptic)

    def published_options(self) -> dict[str, Any]:
        """How the published code tests on this data set, where that differs from the model's defaults: the sizes of
        Cityscapes and Mapillary, the object threshold of BDD100K panoptic. Source: docs/parity.md."""
        if self.dataset.startswith(("cityscapes", "mapillary")):
            return {"shortest_side": 1024, "longest_side": 2560}
        return {"object_threshold": 0.4} if self.dataset == "bdd100k-panoptic" else {}


def vocabulary_of(data: TruthData) -> Vocabulary:
    """The categories that the contiguous ids of its truth mean."""
    return data.manifest.vocabulary if isinstance(data, ShardReader) else data.vocabulary


def task_of(data: TruthData) -> Task:
    """What the truth is; a shard set's is taken for panoptic, the form its samples have."""
    return Task.PANOPTIC if isinstance(data, ShardReader) else data.task


def instances_of(data: TruthData) -> InstanceData | None:
    """The data set, where its truth are instances."""
    return data if task_of(data) is Task.INSTANCES and isinstance(data, InstanceData) else None


def objects_at(data: TruthData, index: int) -> InstanceTruth | None:
    """The objects of one image, where the truth of the data set are instances."""
    instances = instances_of(data)
    return None if instances is None else instances.instances(index)


def identity_of(data: TruthData) -> Any:
    """What tells this data from other data, as a JSON value: hashes of a shard set's tars, or the fingerprint of a
    data set's files (names, sizes and times of change; contents of the annotation file only)."""
    if isinstance(data, ShardReader):
        return [file.sha256 for file in data.manifest.files]
    return fingerprint(data)


def evaluated_vocabulary(truth: Vocabulary, wanted: str) -> Vocabulary:
    """The names by which the model is asked: the truth's own, or those of a vocabulary that means the same categories.
    What a category is (thing or stuff, its id) is the truth's to say.

    Raises:
        UserInputError: another number of categories, or too many with neither the id nor a name in common.
    """
    if not wanted:
        return truth
    vocabulary = load_vocabulary(wanted)
    if len(vocabulary) != len(truth):
        raise UserInputError(
            f"vocabulary {vocabulary.name!r}: expected the data set's {len(truth)} categories, found {len(vocabulary)}"
        )
    categories, strangers = [], []
    for position, (ours, theirs) in enumerate(zip(truth.categories, vocabulary.categories, strict=True)):
        same_id = ours.dataset_id is not None and ours.dataset_id == theirs.dataset_id
        if not same_id and not set(ours.names) & set(theirs.names):
            strangers.append(f"expected {ours.name!r} as category {position}, found {theirs.name!r}")
        categories.append(dataclasses.replace(ours, name=theirs.name, synonyms=theirs.synonyms))
    if len(strangers) > len(truth) * MAX_RENAMED_SHARE:
        raise UserInputError(f"vocabulary {vocabulary.name!r}: {strangers[0]}")
    return Vocabulary(categories=tuple(categories), name=vocabulary.name)

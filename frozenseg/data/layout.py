"""Which files a data set consists of, as plain data; `{split}` in a path stands for the split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from frozenseg.data.coco_instances import file_name
from frozenseg.data.dataset import ApProtocol, Task
from frozenseg.data.folders import LabelFolder
from frozenseg.data.labels import decode_label_map
from frozenseg.data.truth import LabelDecoder, SemanticTruth, TruthReader
from frozenseg.types import Vocabulary


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
class InstanceLayout:
    """COCO instances format; the JSON's own categories. `image_file`: from an entry of the JSON's images to a file."""

    name: str
    annotations: str
    images: str
    image_file: Callable[[dict[str, Any], str], str] = file_name
    protocol: ApProtocol = ApProtocol.COCO
    splits: tuple[str, ...] = ("val", "train")
    about: str = ""


TruthOf = Callable[[Vocabulary], TruthReader]


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """Truth of semantic label files: a value is the category's dataset id plus `first_value`, or what `values` says."""

    first_value: int = 0
    values: Callable[[Vocabulary], dict[int, int]] | None = None
    decode: LabelDecoder = decode_label_map
    longest_short_side: int = 0

    def __call__(self, vocabulary: Vocabulary) -> TruthReader:
        values = self.values(vocabulary) if self.values else label_values(vocabulary, self.first_value)
        return SemanticTruth(
            vocabulary=vocabulary, values=values, decode=self.decode, longest_short_side=self.longest_short_side
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderLayout:
    """Images and label files in folders. `vocabulary` is a published name, or empty: read from ``categories.txt``.
    `id_is_file_name`: folders are no part of an image's id. `names` is a text file with the split's image names;
    `labelled_only` where it names more images than have labels."""

    name: str
    images: str
    labels: tuple[LabelFolder, ...]
    truth: TruthOf = Values()
    vocabulary: str = ""
    only_things: bool = False
    image_ending: str = ""
    id_is_file_name: bool = False
    names: str = ""
    labelled_only: bool = False
    longest_short_side: int = 0
    task: Task = Task.SEMANTIC
    protocol: ApProtocol = ApProtocol.COCO
    splits: tuple[str, ...] = ("val", "train")
    about: str = ""


Layout = PanopticLayout | InstanceLayout | FolderLayout


def label_values(vocabulary: Vocabulary, first_value: int = 0) -> dict[int, int]:
    """Contiguous id of each value in label files that hold dataset ids (or positions, where there are none) plus
    `first_value`."""
    return {
        (index if category.dataset_id is None else category.dataset_id) + first_value: index
        for index, category in enumerate(vocabulary.categories)
    }

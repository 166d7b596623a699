"""What every reader of a data set is to those that go through it: samples in the panoptic form, and where they lie."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from frozenseg.data.rle import Box, Rle
from frozenseg.types import EncodedSample, Size, Vocabulary


class Task(StrEnum):
    """What the truth of a data set is, and with that what can be scored on it."""

    PANOPTIC = "panoptic"
    SEMANTIC = "semantic"
    INSTANCES = "instances"


class ApProtocol(StrEnum):
    """How average precision is computed."""

    COCO = "coco"
    LVIS = "lvis"
    CITYSCAPES = "cityscapes"


class Frequency(StrEnum):
    """LVIS: in how many training images a category occurs: up to 10, up to 100, more. The values are the files'."""

    RARE = "r"
    COMMON = "c"
    FREQUENT = "f"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrueInstance:
    """area decides whether an object is small, medium or large; a crowd is a region of objects nobody told apart."""

    category_id: int
    mask: Rle | None
    box: Box
    area: float
    is_crowd: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceTruth:
    """The objects of one image; unlike the segments of a panoptic map they may overlap.

    Fields: void: pixels that the Cityscapes protocol calls void, None where there are none; absent, incomplete: LVIS's
    categories that were looked for and not found, and those whose objects aren't all annotated (contiguous ids).
    """

    image_id: str
    size: Size
    objects: tuple[TrueInstance, ...] = ()
    void: Rle | None = None
    absent: tuple[int, ...] = ()
    incomplete: tuple[int, ...] = ()


class Entry(Protocol):
    """What is known of a sample before any of its files is read."""

    @property
    def image_id(self) -> str: ...


class SegmentationData(Protocol):
    """A data set: `entries` in order, and the sample of each."""

    vocabulary: Vocabulary
    task: Task

    @property
    def entries(self) -> Sequence[Entry]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> EncodedSample: ...

    def identity(self) -> bytes:
        """What the truth says that isn't in any of `files`: the annotation file's bytes, or empty."""
        ...

    def files(self) -> Sequence[tuple[str, Sequence[str]]]:
        """Folders, and the names below each that the samples are read from."""
        ...


@runtime_checkable
class InstanceData(SegmentationData, Protocol):
    """A data set whose objects can be had one by one. `frequencies`, of every category, are empty but for LVIS."""

    protocol: ApProtocol
    frequencies: Sequence[Frequency]

    def instances(self, index: int) -> InstanceTruth:
        """The objects of one image."""
        ...


def part_of(data: SegmentationData, indices: Sequence[int]) -> SegmentationData:
    """The data set with only these of its samples, in this order; no file is read."""
    part: Any = copy.copy(data)
    part.entries = tuple(data.entries[index] for index in indices)
    chosen: SegmentationData = part
    return chosen

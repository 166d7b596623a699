"""From the label files of the releases to panoptic truth: one small class per way of writing labels down.

Each is given the bytes of an image's label files and answers with the panoptic map and its segments. Shape legend:
h w pixels. Void is 0 in a panoptic map.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from frozenseg.data.labels import decode_label_map, decode_planes, translate
from frozenseg.errors import UserInputError
from frozenseg.types import Size, TruthSegment, Vocabulary

IdMap = NDArray[np.int32]
LabelDecoder = Callable[[bytes, str], IdMap]
INSTANCE_BASE = 1000
"""Cityscapes writes label * 1000 + n for the instance n of a label, and the bare label where nobody told them apart."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PanopticTruth:
    """ids [h,w] int32, 0 = void; segments: every other id in it."""

    ids: IdMap
    segments: tuple[TruthSegment, ...]


class TruthReader(Protocol):
    """Reads the label files of one image; `name` says in errors which image it is. Raises UserInputError."""

    def __call__(self, files: Sequence[bytes], name: str) -> PanopticTruth: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticTruth:
    """One label file. A segment is a category that is present, its id the contiguous category plus one.

    Fields: values: contiguous id of each value in the file, pixels of other values have no truth; decode: from the
    file to those values; longest_short_side: a map whose shorter side is longer is brought to it by nearest
    neighbour, as its image is; 0 for never.
    """

    vocabulary: Vocabulary
    values: Mapping[int, int]
    decode: LabelDecoder = decode_label_map
    longest_short_side: int = 0

    def __call__(self, files: Sequence[bytes], name: str) -> PanopticTruth:
        ids = translate(self.decode(files[0], name), self.values) + 1
        size = reduced_size((ids.shape[0], ids.shape[1]), self.longest_short_side)
        return with_segments(_nearest(ids, size), self.vocabulary, lambda number: (number - 1, False))


@dataclass(frozen=True, slots=True, kw_only=True)
class AdePanopticTruth:
    """ADE20K's label file (value 0 = none, else category + 1) and its instance file (red: one of 100 instance
    categories, green: number of the instance in the image). Stuff comes from the labels, things from the instances,
    which win where both say something. Things that the labels have and the instances don't are void, as in the
    published preparation."""

    vocabulary: Vocabulary
    instance_categories: Mapping[int, int]
    """Contiguous id of each instance category."""

    def __call__(self, files: Sequence[bytes], name: str) -> PanopticTruth:
        labels = translate(decode_label_map(files[0], name), {k + 1: k for k in range(len(self.vocabulary))})
        is_thing = self.vocabulary.is_thing.numpy()
        ids = np.where((labels >= 0) & ~is_thing[labels.clip(0)], labels + 1, 0).astype(np.int32)
        instances, category_of = _ade_instances(files[1], name, self.instance_categories)
        if instances.shape != ids.shape:
            raise UserInputError(f"{name}: expected instances of the labels' size {ids.shape}, found {instances.shape}")
        first = len(self.vocabulary)
        ids = np.where(instances > 0, instances + first, ids).astype(np.int32)

        def meaning(number: int) -> tuple[int, bool]:
            return (category_of[number - first] if number > first else number - 1), False

        return with_segments(ids, self.vocabulary, meaning)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdeInstanceTruth:
    """ADE20K's instance file alone."""

    vocabulary: Vocabulary
    instance_categories: Mapping[int, int]

    def __call__(self, files: Sequence[bytes], name: str) -> PanopticTruth:
        instances, category_of = _ade_instances(files[0], name, self.instance_categories)
        return with_segments(instances, self.vocabulary, lambda number: (category_of[number], False))


@dataclass(frozen=True, slots=True, kw_only=True)
class CityscapesTruth:
    """Cityscapes' instanceIds file: instances, groups (a crowd of their category) and stuff; labels outside the
    vocabulary, and their instances, are void."""

    vocabulary: Vocabulary

    def __call__(self, files: Sequence[bytes], name: str) -> PanopticTruth:
        values = decode_label_map(files[0], name)
        label = np.where(values >= INSTANCE_BASE, values // INSTANCE_BASE, values).astype(np.int32)
        known = {c.dataset_id: k for k, c in enumerate(self.vocabulary.categories) if c.dataset_id is not None}
        ids = np.where(translate(label, known) >= 0, values, 0).astype(np.int32)

        def meaning(number: int) -> tuple[int, bool]:
            category = known[number // INSTANCE_BASE if number >= INSTANCE_BASE else number]
            return category, self.vocabulary.categories[category].is_thing and number < INSTANCE_BASE

        return with_segments(ids, self.vocabulary, meaning)

    @staticmethod
    def void(values: IdMap, vocabulary: Vocabulary) -> NDArray[np.bool_]:
        """[h,w] what the evaluation scripts ignore: bare labels outside the vocabulary. Instances of such labels
        (caravans, trailers) are not among them."""
        known = [c.dataset_id for c in vocabulary.categories if c.dataset_id is not None]
        ignored: NDArray[np.bool_] = (values < INSTANCE_BASE) & ~np.isin(values, known)
        return ignored


BDD_CROWD, BDD_IGNORED = 2, 1
"""Bits of the attributes in a BDD100K bitmask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BddPanopticTruth:
    """BDD100K's bitmask: red the category, green attributes (2: crowd, 1: ignored), blue and alpha the instance.
    Ignored segments are void."""

    vocabulary: Vocabulary

    def __call__(self, files: Sequence[bytes], name: str) -> PanopticTruth:
        category, attributes, high, low = (plane.astype(np.int64) for plane in decode_planes(files[0], name, "RGBA"))
        known = {c.dataset_id: k for k, c in enumerate(self.vocabulary.categories) if c.dataset_id is not None}
        is_void = (translate(category.astype(np.int32), known) < 0) | ((attributes & BDD_IGNORED) > 0)
        crowd = (attributes & BDD_CROWD) > 0
        packed = np.where(is_void, 0, ((category * 2 + crowd) << 16) + (high << 8) + low)
        present, ids = np.unique(packed, return_inverse=True)
        offset = int(present[0] != 0)

        def meaning(number: int) -> tuple[int, bool]:
            tag = int(present[number - offset]) >> 16
            return known[tag // 2], bool(tag % 2)

        return with_segments((ids.reshape(packed.shape) + offset).astype(np.int32), self.vocabulary, meaning)


def with_segments(ids: IdMap, vocabulary: Vocabulary, meaning: Callable[[int], tuple[int, bool]]) -> PanopticTruth:
    """The map with a segment for every id in it but 0; `meaning` gives an id's contiguous category and whether it is a
    crowd."""
    present, areas = np.unique(ids[ids > 0], return_counts=True)
    segments = []
    for number, area in zip(present.tolist(), areas.tolist(), strict=True):
        category, is_crowd = meaning(number)
        segments.append(
            TruthSegment(
                id=number,
                category_id=category,
                is_thing=vocabulary.categories[category].is_thing,
                is_crowd=is_crowd,
                area=area,
            )
        )
    return PanopticTruth(ids=ids, segments=tuple(segments))


def _ade_instances(data: bytes, name: str, categories: Mapping[int, int]) -> tuple[IdMap, dict[int, int]]:
    """Number of the instance at each pixel [h,w], 0 for none, and the contiguous category of each."""
    red, green, _ = decode_planes(data, name, "RGB")
    category_of = {}
    for number in np.unique(green[green > 0]).tolist():
        found = np.unique(red[green == number]).tolist()
        if len(found) != 1 or found[0] not in categories:
            raise UserInputError(f"{name}: expected instance {number} to be of one known category, found {found}")
        category_of[number] = categories[found[0]]
    return green.astype(np.int32), category_of


def reduced_size(size: Size, longest_short_side: int) -> Size:
    """`size` with the shorter side brought down to the limit, the other in proportion; as it is when within, or when
    the limit is 0."""
    height, width = size
    if not longest_short_side or min(size) <= longest_short_side:
        return size
    if height <= width:
        return longest_short_side, round(width / height * longest_short_side)
    return round(height / width * longest_short_side), longest_short_side


def _nearest(ids: IdMap, size: Size) -> IdMap:
    """Nearest neighbour, source positions rounded down."""
    if ids.shape == size:
        return ids
    rows, columns = (np.arange(new) * old // new for old, new in zip(ids.shape, size, strict=True))
    taken: IdMap = ids[rows[:, None], columns[None, :]]
    return taken

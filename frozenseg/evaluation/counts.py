"""What every metric here sums up: per image and category a few numbers. Merging is joining rows, so the result cannot
depend on how images were split over workers.

Shape legend: I images, K categories, C columns (numbers per category), R resamples.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from frozenseg.errors import UserInputError

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]


class CountTable:
    """Sparse [I,K,C] table of per-image numbers with exact sums."""

    def __init__(self, num_categories: int, num_columns: int) -> None:
        self.num_categories, self.num_columns = num_categories, num_columns
        self._image_ids: list[str] = []
        self._known: set[str] = set()
        self._categories: list[NDArray[np.int64]] = []
        self._values: list[Float] = []

    @property
    def num_images(self) -> int:
        return len(self._image_ids)

    def add(self, image_id: str, categories: NDArray[np.int64], values: Float) -> None:
        """Adds one image: its categories [n] and their numbers [n,C]. An empty `image_id` is not checked for repeats.

        Raises:
            UserInputError: an image of this id is in the table already, so it would count twice.
        """
        if image_id in self._known:
            raise UserInputError(f"evaluation: expected every image once, found image {image_id!r} twice")
        if image_id:
            self._known.add(image_id)
        self._image_ids.append(image_id)
        self._categories.append(categories)
        self._values.append(values)

    def merge(self, other: CountTable) -> None:
        """Takes in the images of another worker's table.

        Raises:
            UserInputError: a table of another shape, or an image that both hold.
        """
        expected, found = (self.num_categories, self.num_columns), (other.num_categories, other.num_columns)
        if expected != found:
            raise UserInputError(f"evaluation: expected counts of shape {expected}, found {found}")
        for image_id, categories, values in zip(other._image_ids, other._categories, other._values, strict=True):
            self.add(image_id, categories, values)

    def binarise(self, column: int, threshold: float) -> None:
        """Replaces every number of the column by 1 where it is strictly above the threshold, else by 0."""
        for position, values in enumerate(self._values):
            above = values.copy()
            above[:, column] = values[:, column] > threshold
            self._values[position] = above

    def rows(self) -> tuple[NDArray[np.int64], NDArray[np.int64], Float]:
        """Image index, category and numbers [n,C] of every row."""
        lengths = [len(categories) for categories in self._categories]
        images = np.repeat(np.arange(self.num_images), lengths)
        if not lengths:
            return images, np.zeros(0, dtype=np.int64), np.zeros((0, self.num_columns))
        return images, np.concatenate(self._categories), np.concatenate(self._values)

    def totals(self) -> Float:
        """[K,C] sums over all images, correctly rounded and therefore independent of the order of the images."""
        _, categories, values = self.rows()
        order = np.argsort(categories, kind="stable")
        ends = np.searchsorted(categories[order], np.arange(self.num_categories + 1))
        totals = np.zeros((self.num_categories, self.num_columns))
        for category in np.flatnonzero(np.diff(ends)):
            of_category = values[order[ends[category] : ends[category + 1]]]
            totals[category] = [math.fsum(column) for column in of_category.T.tolist()]
        return totals

    def by_image(self) -> sparse.csr_array:
        """[I, K·C], images in order of their ids, so that a seeded resampling doesn't depend on arrival either."""
        images, categories, values = self.rows()
        place = np.empty(self.num_images, dtype=np.int64)
        place[np.argsort(np.array(self._image_ids, dtype=object), kind="stable")] = np.arange(self.num_images)
        rows = np.repeat(place[images], self.num_columns)
        columns = (categories[:, None] * self.num_columns + np.arange(self.num_columns)).reshape(-1)
        shape = (self.num_images, self.num_categories * self.num_columns)
        return sparse.csr_array((values.reshape(-1), (rows, columns)), shape=shape)

    def state(self) -> dict[str, Any]:
        """Everything, as plain lists that JSON can hold."""
        return {
            "num_categories": self.num_categories,
            "num_columns": self.num_columns,
            "image_ids": list(self._image_ids),
            "categories": [categories.tolist() for categories in self._categories],
            "values": [values.tolist() for values in self._values],
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> CountTable:
        """The table that `state` was taken of."""
        table = cls(state["num_categories"], state["num_columns"])
        for image_id, categories, values in zip(state["image_ids"], state["categories"], state["values"], strict=True):
            shaped = np.array(values, dtype=np.float64).reshape(len(categories), table.num_columns)
            table.add(image_id, np.array(categories, dtype=np.int64), shaped)
        return table


def divide(numerator: Float, denominator: Float) -> Float:
    """Elementwise, nan where the denominator is 0."""
    quotient = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator != 0)
    return quotient


def mean_of_known(values: Float) -> Float:
    """Mean over the last axis of what isn't nan; nan where nothing is left."""
    known = ~np.isnan(values)
    return divide(np.where(known, values, 0.0).sum(-1), known.sum(-1).astype(np.float64))


def as_mask(mask: Any, num_categories: int) -> Bool:
    """[K] bool from a tensor, array or list.

    Raises:
        UserInputError: another length.
    """
    array = np.asarray(mask, dtype=bool)
    if array.shape != (num_categories,):
        raise UserInputError(f"evaluation: expected a mask of {num_categories} categories, found shape {array.shape}")
    return array

"""Random numbers that are the same on every machine and under every numpy: only PCG64's raw stream is used.

numpy promises that stream for ever, but not how `Generator` turns it into numbers, and the normal distribution's tails
go through the platform's libm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Item = TypeVar("Item")


class Dice:
    """Draws from the PCG64 stream that belongs to `key`, a tuple of non-negative integers."""

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(key))

    def units(self, *shape: int) -> NDArray[np.float32]:
        """`shape` float32 in [0,1]."""
        raw = np.asarray(self._bits.random_raw(int(np.prod(shape))), dtype=np.uint64)
        return ((raw >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)).reshape(shape)

    def small(self, *shape: int) -> NDArray[np.uint8]:
        """`shape` uint8, uniform in 0..255."""
        count = int(np.prod(shape))
        raw = np.asarray(self._bits.random_raw((count + 7) // 8), dtype="<u8")
        return raw.view(np.uint8)[:count].reshape(shape)

    def unit(self) -> float:
        """A float in [0,1)."""
        return float(int(self._bits.random_raw()) >> 11) * 2.0**-53

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.unit()

    def integer(self, low: int, high: int) -> int:
        """An integer in low..high, both included."""
        return low + int(self.unit() * (high - low + 1))

    def choose(self, items: Sequence[Item]) -> Item:
        return items[self.integer(0, len(items) - 1)]

    def sample(self, items: Sequence[Item], count: int) -> list[Item]:
        """`count` different items in random order."""
        left = list(items)
        return [left.pop(self.integer(0, len(left) - 1)) for _ in range(count)]

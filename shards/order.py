"""Which sample goes where, as pure functions of integers: the same on every machine and in every version of numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from frozenseg.errors import UserInputError

IntArray = npt.NDArray[np.int64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014): a bijection of 64-bit integers that looks random."""
    z = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def epoch_order(num_samples: int, seed: int, epoch: int) -> IntArray:
    """[num_samples] int64: a permutation that depends on nothing but the three numbers.

    Sorting by a hash of the index, and not numpy's shuffle, because numpy may change the stream of its generators in
    any release and a resumed run must meet the same order.
    """
    with np.errstate(over="ignore"):
        state = _mix(np.array([seed], dtype=np.int64).view(np.uint64) + _GOLDEN)
        state = _mix(state ^ (np.array([epoch], dtype=np.int64).view(np.uint64) + _GOLDEN))
        keys = _mix((np.arange(num_samples, dtype=np.uint64) + np.uint64(1)) * _GOLDEN + state)
    return np.argsort(keys, kind="stable").astype(np.int64)


def split_order(order: IntArray, reader: int, num_readers: int) -> IntArray:
    """The part of one of several readers: every num_readers-th element, so that reading them in turn is `order`."""
    if not 0 <= reader < num_readers:
        raise UserInputError(f"reader {reader} of {num_readers}: expected 0 to {num_readers - 1}")
    return order[reader::num_readers]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPlan:
    """One tar to write: its name and the indices, into the source data set, of its samples in order."""

    name: str
    indices: tuple[int, ...]


def plan_shards(num_samples: int, samples_per_shard: int, prefix: str, seed: int | None = 0) -> tuple[ShardPlan, ...]:
    """Scrambles the samples (not with `seed=None`) and deals them into tars whose sizes differ by one at most."""
    if samples_per_shard < 1:
        raise UserInputError(f"samples per shard: expected at least 1, found {samples_per_shard}")
    order = np.arange(num_samples, dtype=np.int64) if seed is None else epoch_order(num_samples, seed, -1)
    num_shards = -(-num_samples // samples_per_shard)
    parts = np.array_split(order, num_shards) if num_shards else []
    return tuple(
        ShardPlan(name=f"{prefix}-{number:06d}.tar", indices=tuple(int(i) for i in part))
        for number, part in enumerate(parts)
    )

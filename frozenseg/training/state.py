"""Where a run is: finished steps, and which samples of which epoch they took."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopState:
    """Fields: step: finished updates, skipped ones among them; consumed: for every epoch begun and not over, the ids of
    the samples already used, over all workers; num_skipped: steps skipped because of a non-finite loss or gradient."""

    step: int = 0
    consumed: dict[int, tuple[str, ...]] = field(default_factory=dict)
    num_skipped: int = 0

    @property
    def epoch(self) -> int:
        """The epoch that the next sample comes from, as far as is known: the first one that is not over."""
        return min(self.consumed, default=0)

    def consumed_in(self, epoch: int) -> frozenset[str]:
        return frozenset(self.consumed.get(epoch, ()))


class Consumption:
    """This worker's record of consumed samples since the last checkpoint, on top of what that one says."""

    def __init__(self, before: LoopState) -> None:
        self._before = before.consumed
        self._own: dict[int, list[str]] = {}

    def add(self, epoch: int, image_ids: Iterable[str]) -> None:
        self._own.setdefault(epoch, []).extend(image_ids)

    def own(self) -> dict[int, list[str]]:
        """What this worker consumed; the workers' ones together go into `merged`."""
        return self._own

    def merged(self, of_workers: Iterable[dict[int, list[str]]], num_samples: int) -> dict[int, tuple[str, ...]]:
        """Consumed ids by epoch, over all workers. Epochs with all `num_samples` used are over.

        Raises:
            AssertionError: a sample was used twice in one epoch, which is a defect of the data path.
        """
        total: dict[int, list[str]] = {epoch: list(ids) for epoch, ids in self._before.items()}
        for own in of_workers:
            for epoch, ids in own.items():
                total.setdefault(epoch, []).extend(ids)
        for epoch, ids in total.items():
            assert len(set(ids)) == len(ids), f"a sample of epoch {epoch} was used twice"
        unfinished = {epoch: tuple(ids) for epoch, ids in total.items() if len(ids) < num_samples}
        return unfinished or {max(total, default=-1) + 1: ()}

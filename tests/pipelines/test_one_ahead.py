"""One item is made while the one before is in use: never more, never out of order, and errors arrive where asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pipelines.one_ahead import one_ahead


def test_the_next_item_is_made_meanwhile_and_no_further_one() -> None:
    made: list[int] = []
    reached = threading.Semaphore(0)

    def items() -> Iterator[int]:
        for number in range(5):
            made.append(number)
            reached.release()
            yield number

    taken = one_ahead(items())
    assert next(taken) == 0
    assert reached.acquire(timeout=30)
    assert reached.acquire(timeout=30)
    assert not reached.acquire(timeout=0.2)
    assert made == [0, 1]
    assert list(taken) == [1, 2, 3, 4]


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("the second one")

    taken = one_ahead(items())
    assert next(taken) == 1
    with pytest.raises(ValueError, match="the second one"):
        next(taken)


def test_who_stops_early_waits_for_nothing_and_ends_the_thread() -> None:
    may_go_on = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        may_go_on.wait()
        yield 2

    before = threading.active_count()
    taken = one_ahead(items())
    assert next(taken) == 1
    taken.close()  # type: ignore[attr-defined]
    may_go_on.set()
    for thread in threading.enumerate():
        if thread.name == "one-ahead":
            thread.join(timeout=30)
    assert threading.active_count() <= before

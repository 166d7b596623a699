"""The next item of an iterator, made while the one before is in use."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


def one_ahead(items: Iterator[T]) -> Iterator[T]:
    """The items, each asked for in a thread of its own as soon as the one before was handed over, and not earlier: no
    more than one is waiting. What `items` raises is raised here.

    The thread is never waited for: whoever stops early, or ends the process, does so at once.
    """
    asked: queue.SimpleQueue[bool] = queue.SimpleQueue()
    made: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def make() -> None:
        while asked.get():
            try:
                made.put((next(items), None))
            except BaseException as error:  # noqa: BLE001 - all of it is the caller's, the end of the items among it
                made.put((None, error))
                return

    threading.Thread(target=make, name="one-ahead", daemon=True).start()
    asked.put(True)
    try:
        while True:
            item, error = made.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            asked.put(True)
            yield item  # type: ignore[misc]
            del item
    finally:
        asked.put(False)

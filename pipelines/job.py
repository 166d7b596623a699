"""What the entry scripts share: the command line, and one clear line instead of a traceback for the user's mistakes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

import tyro

from frozenseg.errors import FrozenSegError

T = TypeVar("T")


def run_job(arguments: type[T], run: Callable[[T], None], description: str) -> int:
    """Parses `arguments` (a dataclass) from the command line and runs. Exit code 2 for the user's errors."""
    parsed = tyro.cli(arguments, description=description)
    try:
        run(parsed)
    except FrozenSegError as error:
        # Ray wraps what a worker raised into an exception of both types, whose text is the whole remote traceback.
        sys.stderr.write(f"{getattr(error, 'cause', error)}\n")
        return 2
    return 0

"""What the entry scripts share: the command line, and one clear line instead of a traceback for the user's mistakes."""

from __future__ import annotations

import re
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
        sys.stderr.write(f"{one_line(error)}\n")
        return 2
    return 0


def one_line(error: FrozenSegError) -> str:
    """The message. What a worker raised arrives as an exception of Ray's and of our type, whose text is our line with
    Ray's advice below it, or whole tracebacks that end with our line."""
    text = str(getattr(error, "cause", error))
    written = re.findall(r"^frozenseg\.errors\.\w+: (.*)$", text, flags=re.MULTILINE)
    return written[-1] if written else next(iter(text.splitlines()), "")

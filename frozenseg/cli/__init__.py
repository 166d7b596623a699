"""The `frozenseg` command. Each subcommand is a module of this package, imported only when it is asked for."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from frozenseg.config import suggestion
from frozenseg.errors import UserInputError


@dataclass(frozen=True, slots=True)
class Command:
    """module: of this package; arguments: its dataclass (or union of them); help: one line."""

    module: str
    arguments: str
    help: str


COMMANDS = {
    "predict": Command("predict", "Predict", "segment pictures by any vocabulary"),
    "convert": Command("convert", "Convert", "turn a released checkpoint into a model folder"),
    "weights": Command("weights", "Weights", "list, get and check the encoders' official weights"),
    "check-data": Command("check_data", "CheckData", "look a data set over before training on it"),
    "score": Command("score", "Score", "score prediction files against the truth"),
    "show": Command("show", "Show", "draw what a model sees"),
    "make-miniature": Command("make_miniature", "MakeMiniature", "write the miniature world as a data set"),
}

EXIT_OK, EXIT_USER_ERROR, EXIT_INTERRUPTED, EXIT_CUT_OFF = 0, 2, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand and returns its exit code: 2, with one line on stderr, for what the user can mend."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return EXIT_OK if arguments else EXIT_USER_ERROR
    if arguments[0] == "--version":
        from frozenseg import __version__

        print(f"frozenseg {__version__}")
        return EXIT_OK
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = _show_warning
        try:
            code = _run(arguments[0], arguments[1:])
            sys.stdout.flush()
            return code
        except UserInputError as error:
            print(f"frozenseg: error: {' '.join(str(error).split())}", file=sys.stderr)
            return EXIT_USER_ERROR
        except KeyboardInterrupt:
            print("frozenseg: stopped", file=sys.stderr)
            return EXIT_INTERRUPTED
        except BrokenPipeError:
            # Nobody reads on, as in `frozenseg ... | head`. The interpreter would flush once more when it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return EXIT_CUT_OFF


def _run(name: str, arguments: list[str]) -> int:
    if name not in COMMANDS:
        raise UserInputError(f"unknown command {name!r}{suggestion(name, COMMANDS) or '; see frozenseg --help'}")
    command = COMMANDS[name]
    try:
        module = importlib.import_module(f"frozenseg.cli.{command.module}")
    except ModuleNotFoundError as error:
        if error.name != f"frozenseg.cli.{command.module}":
            raise
        raise UserInputError(f"the command {name!r} is not part of this installation") from error
    import tyro

    parsed: Any = tyro.cli(getattr(module, command.arguments), args=arguments, prog=f"frozenseg {name}")
    return int(module.run(parsed))


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {command.help}" for name, command in COMMANDS.items()]
    return "usage: frozenseg COMMAND ...\n\n" + "\n".join(lines) + "\n\n`frozenseg COMMAND --help` says more."


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,  # noqa: ARG001  # the place in our code means nothing to a user of the command
    lineno: int,  # noqa: ARG001
    file: TextIO | None = None,  # noqa: ARG001
    line: str | None = None,  # noqa: ARG001
) -> None:
    if issubclass(category, (DeprecationWarning, FutureWarning, PendingDeprecationWarning)):
        return  # libraries talking to programmers, nothing for a user of the command
    print(f"frozenseg: warning: {' '.join(str(message).split())}", file=sys.stderr)

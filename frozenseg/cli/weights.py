"""`frozenseg weights list|get|check`: the encoders' official weights."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from frozenseg.model.download import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class List:
    """Lists the official sources: size and hash where they are published, and licences."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Get:
    """Downloads files, resuming what was begun, and verifies what can be verified."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional]
    """As `frozenseg weights list` calls them."""
    mirror: str = ""
    """An address or local folder that holds the files under their names."""
    to: Path | None = None
    """Folder to keep them in; by default FROZENSEG_WEIGHTS or the user's cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Verifies the files that are here."""

    folder: Path | None = None
    """By default FROZENSEG_WEIGHTS or the user's cache."""


Weights = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Get, tyro.conf.subcommand("get")]
    | Annotated[Check, tyro.conf.subcommand("check")]
)


def run(args: List | Get | Check) -> int:
    match args:
        case List():
            return _list()
        case Get():
            return _get(args)
        case Check():
            return _check(args)


def _list() -> int:
    from frozenseg.model.official import OFFICIAL_WEIGHTS, weights_folder

    for entry in OFFICIAL_WEIGHTS:
        size = f"{entry.num_bytes / 1e6:.0f} MB" if entry.num_bytes else "size not published"
        digest = f"{entry.hash_name} {entry.hash_prefix[:12]}..." if entry.hash_name else "no published hash"
        tag = f" {entry.tag}" if entry.tag else ""
        print(f"{entry.name}\n  {entry.architecture}{tag}; {size}; {digest}; {entry.licence}\n  {entry.url}")
    print(f"kept in {weights_folder()}")
    return 0


def _get(args: Get) -> int:
    from frozenseg.errors import UserInputError
    from frozenseg.model.download import get_weights
    from frozenseg.model.official import official, weights_folder

    if not args.names:
        raise UserInputError("expected names of weights, found none; see `frozenseg weights list`")
    for entry in [official(name) for name in args.names]:
        path = get_weights(entry, args.to or weights_folder(), mirror=args.mirror, progress=_progress(entry.name))
        print(f"{entry.name}: {path}")
    return 0


def _check(args: Check) -> int:
    from frozenseg.model.download import problem
    from frozenseg.model.official import OFFICIAL_WEIGHTS, weights_folder

    folder = args.folder or weights_folder()
    damaged = 0
    for entry in OFFICIAL_WEIGHTS:
        path = folder / entry.file_name
        if not path.is_file():
            print(f"{entry.name}: not here")
            continue
        found = problem(entry, path)
        damaged += bool(found)
        print(
            f"{entry.name}: {found or ('verified' if entry.hash_name else 'here, nothing published to verify it by')}"
        )
    return 1 if damaged else 0


def _progress(name: str) -> Progress:
    """Writes to a terminal only, so that logs stay short."""

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            of = f" of {total / 1e6:.0f}" if total else ""
            print(f"\r{name}: {done / 1e6:.0f}{of} MB", end="", file=sys.stderr, flush=True)

    return show

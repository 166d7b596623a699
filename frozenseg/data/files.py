"""Reading from a local path or any fsspec address (``s3://…``, ``gs://…``, ``memory://…``) through one small door."""

from __future__ import annotations

import json
import posixpath
from pathlib import Path
from typing import Any

import fsspec

from frozenseg.errors import MissingPathError, UserInputError


def is_remote(address: str | Path) -> bool:
    """True for an fsspec address with a protocol, False for a path of this machine."""
    return "://" in str(address)


def absolute(address: str | Path) -> str:
    """A local path made absolute, for processes that run in other folders; other addresses as they are."""
    return str(address) if is_remote(address) else str(Path(address).absolute())


def join(folder: str | Path, name: str) -> str:
    """`name` below `folder`, for paths and addresses alike."""
    return posixpath.join(str(folder), name)


def read_bytes(address: str | Path, what: str = "file") -> bytes:
    """The whole file.

    Raises:
        MissingPathError: nothing there; the message names `what` and the address.
    """
    try:
        if is_remote(address):
            with fsspec.open(str(address), "rb") as stream:
                content: bytes = stream.read()
            return content
        return Path(address).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise MissingPathError(f"{what}: no file {address}") from None
    except IsADirectoryError:
        raise UserInputError(f"{what}: expected a file, found the folder {address}") from None


def exists(address: str | Path) -> bool:
    """Whether a file or folder is there."""
    if is_remote(address):
        filesystem, path = fsspec.core.url_to_fs(str(address))
        return bool(filesystem.exists(path))
    return Path(address).exists()


def list_files(folder: str | Path, suffixes: tuple[str, ...], *, recursive: bool = False) -> list[str]:
    """Names below `folder` (with ``/`` between parts) that end in one of `suffixes`, in any case, sorted.

    Raises:
        MissingPathError: no such folder.
    """
    if not exists(folder):
        raise MissingPathError(f"no folder {folder}")
    if is_remote(folder):
        filesystem, root = fsspec.core.url_to_fs(str(folder))
        found = filesystem.find(root, maxdepth=None if recursive else 1)
        names = [str(name)[len(root.rstrip("/")) + 1 :] for name in found]
    else:
        paths = Path(folder).rglob("*") if recursive else Path(folder).iterdir()
        names = [path.relative_to(folder).as_posix() for path in paths if path.is_file()]
    return sorted(name for name in names if name.lower().endswith(suffixes))


def read_json(address: str | Path, what: str = "JSON file") -> Any:
    """The parsed file.

    Raises:
        MissingPathError: nothing there.
        UserInputError: not JSON; the message names the line.
    """
    content = read_bytes(address, what)
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        raise UserInputError(f"{what} {address}: not valid JSON, line {error.lineno}: {error.msg}") from None
    except UnicodeDecodeError:
        raise UserInputError(f"{what} {address}: expected UTF-8 text, found binary data") from None

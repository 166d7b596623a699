"""Downloads that resume, verify what can be verified, and appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx

from frozenseg.errors import MissingPathError, UserInputError
from frozenseg.model.official import OfficialWeights

Progress = Callable[[int, int], None]
"""Called with (bytes so far, bytes in all or 0 when not known)."""

_CHUNK = 1 << 20


def get_weights(entry: OfficialWeights, folder: Path, *, mirror: str = "", progress: Progress | None = None) -> Path:
    """Brings an official file into `folder`; a file that is there and verifies is left alone.

    Args:
        entry: what to get.
        folder: where weights are kept.
        mirror: an address or local folder that holds the file under its `file_name`; the official source when empty.
        progress: called now and then.

    Raises:
        MissingPathError: the local folder doesn't hold the file.
        UserInputError: offline, refused by the server, or not the official file (it is removed then).
    """
    path = folder / entry.file_name
    if path.is_file() and not problem(entry, path):
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    if mirror and "://" not in mirror:
        source = Path(mirror) / entry.file_name
        if not source.is_file():
            raise MissingPathError(f"the folder {mirror} does not hold {entry.file_name}")
        shutil.copyfile(source, part)
    else:
        url = f"{mirror.rstrip('/')}/{entry.file_name}" if mirror else entry.url
        _download(url, part, progress)
    found = problem(entry, part)
    if found:
        part.unlink()
        raise UserInputError(f"{entry.file_name} from {mirror or entry.url}: {found}; it was removed")
    with part.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
    return path


def problem(entry: OfficialWeights, path: Path) -> str:
    """What is wrong with a file, as far as the published facts tell; empty when nothing is."""
    size = path.stat().st_size
    if entry.num_bytes and size != entry.num_bytes:
        return f"expected {entry.num_bytes} bytes, found {size}"
    if not entry.hash_name:
        return ""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, entry.hash_name).hexdigest()
    if not digest.startswith(entry.hash_prefix):
        return f"expected {entry.hash_name} {entry.hash_prefix}..., found {digest[: max(len(entry.hash_prefix), 8)]}..."
    return ""


def _download(url: str, part: Path, progress: Progress | None) -> None:
    """Appends to `part` what is missing of `url`; a server that cannot resume sends it all again."""
    have = part.stat().st_size if part.is_file() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    try:
        with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=30) as response:
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                return  # all of it is here already; what it is will be verified
            if response.status_code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
                raise UserInputError(f"{url}: the server answered {response.status_code}")
            resumed = response.status_code == httpx.codes.PARTIAL_CONTENT
            done = have if resumed else 0
            total = done + int(response.headers.get("Content-Length", -done))
            with part.open("ab" if resumed else "wb") as file:
                for chunk in response.iter_bytes(_CHUNK):
                    file.write(chunk)
                    done += len(chunk)
                    if progress is not None:
                        progress(done, total)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserInputError(
            f"{url} cannot be reached ({reason}): offline? What has come so far is kept and resumed; "
            "--mirror takes another address or a folder that holds the file"
        ) from error

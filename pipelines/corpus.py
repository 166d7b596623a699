"""The images to label: folders, globs, lists, single files, tars, Parquet files and shard sets, local or at any fsspec
address."""

from __future__ import annotations

import functools
import glob
import hashlib
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import fsspec

from frozenseg.data.files import absolute, is_remote, list_files, read_bytes
from frozenseg.data.images import IMAGE_SUFFIXES
from frozenseg.errors import MissingPathError, UserInputError
from pipelines.corpus_files import PARQUET_SUFFIXES, TAR_SUFFIXES, list_rows, list_tar, read_member, read_row
from shards import MANIFEST_NAME, ShardReader, Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageReference:
    """One image of the corpus.

    Fields: image_id: unique, without dots and slashes; address: of the file that holds it; file_name: relative to the
    corpus; kind: whether that file is the image, a shard set, a tar or a Parquet file with image bytes; place: within
    it: (number of the sample, 0), (byte offset, bytes), (row group, row in it); column: of a Parquet file.
    """

    image_id: str
    address: str
    file_name: str
    kind: Literal["file", "sample", "member", "row"] = "file"
    place: tuple[int, int] = (0, 0)
    column: str = ""


def find_corpus(address: str, image_column: str = "") -> list[ImageReference]:
    """Every image at the address, in a fixed order.

    Args:
        address: a folder (searched to any depth), a glob, a .txt list of addresses, an image file, a shard set; or
            tars and Parquet files: one, a glob of them, or a folder that holds nothing else of use.
        image_column: of Parquet files: image bytes (also as Hugging Face stores them) or paths; found by its name when
            empty.

    Raises:
        MissingPathError: nothing there.
        UserInputError: no image there, or a tar or Parquet file that cannot be used.
    """
    address = absolute(address)
    lower = address.lower()
    if "*" in address:
        root, names = _globbed(address)
    elif lower.endswith(".txt"):
        lines = read_bytes(address, "list of images").decode().splitlines()
        names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        root = "" if any(is_remote(name) for name in names) else posixpath.dirname(address)
    elif lower.endswith((*IMAGE_SUFFIXES, *TAR_SUFFIXES, *PARQUET_SUFFIXES)):
        root, names = posixpath.dirname(address), [posixpath.basename(address)]
    elif Storage(address).exists(MANIFEST_NAME):
        return _of_shards(address)
    else:
        root, names = address, list_files(address, IMAGE_SUFFIXES, recursive=True)
        if not names:
            names = list_files(address, (*TAR_SUFFIXES, *PARQUET_SUFFIXES), recursive=True)
    references = [found for name in names for found in _within(root, name, image_column)]
    if not references:
        expected = ", ".join((*IMAGE_SUFFIXES, *TAR_SUFFIXES, *PARQUET_SUFFIXES))
        raise UserInputError(f"{address}: expected images ({expected}), found none")
    return _numbered(references)


def _within(root: str, name: str, image_column: str) -> Iterable[ImageReference]:
    """The images that one file of the corpus holds, without ids."""
    address = posixpath.join(root, name)
    if name.lower().endswith(TAR_SUFFIXES):
        for member, offset, size in list_tar(address, IMAGE_SUFFIXES):
            yield ImageReference(
                image_id="", address=address, file_name=f"{name}/{member}", kind="member", place=(offset, size)
            )
    elif name.lower().endswith(PARQUET_SUFFIXES):
        table = list_rows(address, image_column)
        for number, path in enumerate(table.paths):
            inner = path if is_remote(path) else posixpath.join(posixpath.dirname(address), path)
            if table.holds_bytes:
                group, row = table.place(number)
                file_name = f"{name}/{number:08d}"
                yield ImageReference(
                    image_id="", address=address, file_name=file_name, kind="row", place=(group, row),
                    column=table.column,
                )  # fmt: skip
            else:
                yield ImageReference(image_id="", address=inner, file_name=path)
    else:
        # A name that is no UTF-8 opens its file as it is, but no table, JSON or XML can hold it.
        printable = name.encode("utf-8", "backslashreplace").decode()
        yield ImageReference(image_id="", address=address, file_name=printable)


def read_image_bytes(reference: ImageReference) -> bytes:
    """Raises UserInputError when the file is gone or damaged."""
    match reference.kind:
        case "file":
            return read_bytes(reference.address, f"image {reference.image_id!r}")
        case "sample":
            return _reader(reference.address)[reference.place[0]].image_bytes
        case "member":
            return read_member(reference.address, *reference.place)
        case "row":
            return read_row(reference.address, reference.column, *reference.place)


def _numbered(references: Sequence[ImageReference]) -> list[ImageReference]:
    ids = image_ids([reference.file_name for reference in references])
    return [replace(reference, image_id=image_id) for image_id, reference in zip(ids, references, strict=True)]


def image_ids(names: Sequence[str]) -> list[str]:
    """A text id for each file name: the name without its ending where that is allowed and unique, else with a hash."""
    plain = [re.sub(r"[^A-Za-z0-9_\-]", "_", _stem(name)) for name in names]
    counts = Counter(plain)
    ids = []
    for name, candidate in zip(names, plain, strict=True):
        if candidate == _stem(name) and counts[candidate] == 1 and len(candidate) <= 60:
            ids.append(candidate)
        else:
            ids.append(f"{candidate[-51:]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}")
    if len(set(ids)) < len(ids):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise UserInputError(f"corpus: expected every image once, found {twice} again")
    return ids


def _stem(name: str) -> str:
    return posixpath.splitext(name)[0]


def _globbed(pattern: str) -> tuple[str, list[str]]:
    """The folder before the first wildcard, and the matches below it."""
    root = pattern.split("*", 1)[0].rpartition("/")[0]
    if is_remote(pattern):
        filesystem, path = fsspec.core.url_to_fs(pattern)
        inner_root = fsspec.core.url_to_fs(root)[1].rstrip("/")
        matches = [str(match) for match in filesystem.glob(path)]
    else:
        inner_root, matches = root, glob.glob(pattern, recursive=True)
    suffixes = (*IMAGE_SUFFIXES, *TAR_SUFFIXES, *PARQUET_SUFFIXES)
    names = sorted(match[len(inner_root) + 1 :] for match in matches if match.lower().endswith(suffixes))
    if not names:
        raise MissingPathError(f"{pattern}: no image matches")
    return root, names


@functools.lru_cache(maxsize=4)
def _reader(address: str) -> ShardReader:
    return ShardReader(address)


def _of_shards(address: str) -> list[ImageReference]:
    ids = (image_id for file in ShardReader(address).manifest.files for image_id in file.sample_ids)
    return [
        ImageReference(image_id=image_id, address=address, file_name=image_id, kind="sample", place=(number, 0))
        for number, image_id in enumerate(ids)
    ]

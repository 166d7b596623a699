"""Images inside tars and Parquet files of others: where each lies, and one ranged read for it."""

from __future__ import annotations

import bisect
import functools
import tarfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

import fsspec

from frozenseg.errors import MissingPathError, UserInputError

TAR_SUFFIXES = (".tar",)
PARQUET_SUFFIXES = (".parquet",)
IMAGE_COLUMNS = ("image", "image_bytes", "bytes", "jpg", "jpeg", "png", "path", "image_path", "file_name", "file")
"""Names looked for, in this order, where no column is named."""

_read_lock = threading.Lock()


def list_tar(address: str, suffixes: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """(name, byte offset of the contents, bytes) of every plain file that ends in one of `suffixes`, in the tar's
    order.

    Where neighbours share a name up to the first dot they are a webdataset sample, and the first that has only an
    ending behind it (`key.jpg`) is its image, not `key.mask.png`; without such a one all count.

    Raises:
        MissingPathError: no such tar.
        UserInputError: not a plain tar.
    """
    try:
        with _open(address) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for key, group in groupby(_files(tar, tuple(suffixes)), key=lambda member: _key(member.name)):
                members = list(group)
                simple = [m for m in members if m.name.removeprefix(key).count(".") == 1]
                for member in simple[:1] or members:
                    yield member.name, member.offset_data, member.size
    except (tarfile.TarError, EOFError) as error:
        raise UserInputError(f"{address}: expected a plain, uncompressed tar: {error}") from error


def _files(tar: tarfile.TarFile, suffixes: tuple[str, ...]) -> Iterator[tarfile.TarInfo]:
    for member in tar:
        # Otherwise the headers of the whole tar stay in memory.
        tar.members.clear()  # type: ignore[attr-defined]  # typeshed does not know it
        if member.isreg() and not member.issparse() and member.name.lower().endswith(suffixes):
            yield member


def _key(name: str) -> str:
    """The name up to the first dot of its last part."""
    folder, slash, base = name.rpartition("/")
    return f"{folder}{slash}{base.split('.', 1)[0]}"


def read_member(address: str, offset: int, size: int) -> bytes:
    """Raises MissingPathError, and UserInputError when the tar ends before the member does."""
    try:
        filesystem, path = fsspec.core.url_to_fs(address)
        data: bytes = filesystem.cat_file(path, start=offset, end=offset + size)
    except FileNotFoundError as error:
        raise MissingPathError(f"no file {address}") from error
    if len(data) != size:
        raise UserInputError(f"{address}: expected {size} bytes at {offset}, found {len(data)}")
    return data


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTable:
    """Rows of a Parquet file. column: that holds the images; holds_bytes: else paths; paths: one text a row, empty
    where the row holds bytes; row_counts: rows of each row group."""

    column: str
    holds_bytes: bool
    paths: Sequence[str]
    row_counts: tuple[int, ...]

    def place(self, number: int) -> tuple[int, int]:
        """(row group, row in it) of row `number`."""
        ends = _ends(self.row_counts)
        group = bisect.bisect_right(ends, number)
        return group, number - (ends[group - 1] if group else 0)


@functools.lru_cache(maxsize=4)
def _ends(row_counts: tuple[int, ...]) -> list[int]:
    return list(accumulate(row_counts))


def list_rows(address: str, column: str = "") -> ImageTable:
    """The rows of a Parquet file with image bytes or paths.

    Args:
        column: binary, text (paths, relative to the file's folder), or a struct with the field `bytes`; empty: the
            first of IMAGE_COLUMNS that is there.

    Raises:
        MissingPathError, UserInputError: no such file, not Parquet, or no such column.
    """
    import pyarrow as pa

    with _parquet(address) as file:
        schema = file.schema_arrow
        column = column or next((name for name in IMAGE_COLUMNS if name in schema.names), "")
        if column not in schema.names:
            wanted = f"the column {column!r}" if column else f"a column {', '.join(IMAGE_COLUMNS)}"
            raise UserInputError(
                f"{address}: expected {wanted} (--image-column), found {', '.join(schema.names) or 'none'}"
            )
        kind = schema.field(column).type
        row_counts = tuple(file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups))
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        is_struct = pa.types.is_struct(kind) and any(field.name == "bytes" for field in kind)
        if not is_text and not is_struct and not pa.types.is_binary(kind) and not pa.types.is_large_binary(kind):
            raise UserInputError(f"{address}: column {column!r}: expected image bytes or paths, found {kind}")
        paths: Sequence[str] = [""] * sum(row_counts)
        if is_text:
            paths = file.read(columns=[column]).column(column).to_pylist()
            if not all(paths):
                raise UserInputError(f"{address}: column {column!r}: expected a path in every row, found an empty one")
    return ImageTable(column=column, holds_bytes=not is_text, paths=paths, row_counts=row_counts)


def read_row(address: str, column: str, group: int, row: int) -> bytes:
    """The image bytes of one row. The column of the last row groups is kept, as rows are asked for in order.

    Raises:
        MissingPathError, UserInputError: no such file, or no bytes in that row.
    """
    with _read_lock:
        value = _row_group(address, column, group)[row].as_py()
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        raise UserInputError(f"{address}: row {row} of row group {group}: expected image bytes, found none")
    return data


@functools.lru_cache(maxsize=2)
def _row_group(address: str, column: str, group: int) -> Any:
    with _parquet(address) as file:
        return file.read_row_group(group, columns=[column]).column(column)


def _open(address: str) -> Any:
    """A seekable binary file. Raises MissingPathError."""
    try:
        return fsspec.open(address, "rb").open()
    except FileNotFoundError as error:
        raise MissingPathError(f"no file {address}") from error


@contextmanager
def _parquet(address: str) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet

    with _open(address) as file:
        try:
            opened = pyarrow.parquet.ParquetFile(file)
        except pa.ArrowInvalid as error:
            raise UserInputError(f"{address}: expected a Parquet file: {error}") from error
        yield opened

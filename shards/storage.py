"""The few file operations that shard sets need, on a local folder or on any address that fsspec knows."""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import fsspec

from frozenseg.errors import MissingPathError, UserInputError

TEMPORARY_PREFIX = ".tmp-"


class LocalFile:
    """An open file, read anywhere without seeking, so that threads may share it. Closed when it is dropped."""

    def __init__(self, path: str) -> None:
        self._handle = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            os.close(self._handle)

    @property
    def num_bytes(self) -> int:
        return os.fstat(self._handle).st_size

    def read(self, start: int, end: int) -> bytes:
        """Bytes [start, end), fewer when the file ends before."""
        data = os.pread(self._handle, end - start, start)
        return data if len(data) == end - start else self._read_on(data, start, end)

    def _read_on(self, data: bytes, start: int, end: int) -> bytes:
        """After a read that brought less: the file ends, or the system gives it in parts."""
        while len(data) < end - start:
            more = os.pread(self._handle, end - start - len(data), start + len(data))
            if not more:
                break
            data += more
        return data


class MappedFile:
    """As `LocalFile`, out of a memory map: the system copies nothing, but an error of the disk, or a file that somebody
    cuts short meanwhile, ends the process (SIGBUS) instead of raising."""

    def __init__(self, path: str) -> None:
        self._file = LocalFile(path)
        # An empty file cannot be mapped.
        size = self._file.num_bytes
        self._map = mmap.mmap(self._file._handle, size, prot=mmap.PROT_READ) if size else b""

    @property
    def num_bytes(self) -> int:
        return self._file.num_bytes

    def read(self, start: int, end: int) -> bytes:
        """Bytes [start, end), fewer when the file ended before when it was opened."""
        return self._map[start:end]


class Storage:
    """A folder of files, by address: a local path, or `s3://bucket/prefix`, `gs://…`, `memory://…`.

    Every write is whole or absent: local files are written under a temporary name, flushed to the disk and renamed;
    object stores make a put visible at once or not at all.
    """

    def __init__(self, address: str | Path) -> None:
        self.address = str(address).rstrip("/") or "/"
        protocol = self.address.split("://", 1)[0] if "://" in self.address else "file"
        self.is_local = protocol in ("file", "local")
        self._fs: Any = None
        if self.is_local:
            self.root = os.path.abspath(self.address.removeprefix("file://").removeprefix("local://"))
        else:
            try:
                # Others write here, too: what a listing once said of an object may be wrong by now.
                self._fs, self.root = fsspec.core.url_to_fs(self.address, use_listings_cache=False)
            except (ImportError, ValueError) as error:
                raise UserInputError(f"address {self.address!r} cannot be used: {error}") from error

    def __reduce__(self) -> tuple[type[Storage], tuple[str]]:
        return Storage, (self.address,)

    def path(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    def where(self, name: str) -> str:
        """How to call a file in a message."""
        return f"{self.address}/{name}"

    def exists(self, name: str = "") -> bool:
        return os.path.exists(self.path(name)) if self.is_local else bool(self._fs.exists(self.path(name)))

    def size(self, name: str) -> int | None:
        """Bytes of a file, None when there is none."""
        try:
            return os.path.getsize(self.path(name)) if self.is_local else int(self._fs.size(self.path(name)))
        except FileNotFoundError:
            return None

    def list_names(self, folder: str = "") -> list[str]:
        """Sorted names of the files directly in `folder`, without temporary ones; empty when there is none."""
        try:
            paths = os.listdir(self.path(folder)) if self.is_local else self._fs.ls(self.path(folder), detail=False)
        except FileNotFoundError:
            return []
        names = (str(path).rstrip("/").rsplit("/", 1)[-1] for path in paths)
        return sorted(name for name in names if not name.startswith(TEMPORARY_PREFIX))

    def read_bytes(self, name: str) -> bytes:
        """Raises MissingPathError."""
        try:
            if self.is_local:
                return Path(self.path(name)).read_bytes()
            return bytes(self._fs.cat_file(self.path(name)))
        except FileNotFoundError as error:
            raise MissingPathError(f"{self.where(name)} does not exist") from error

    def read_range(self, name: str, start: int, end: int) -> bytes:
        """Bytes [start, end), fewer when the file ends before. Raises MissingPathError."""
        try:
            if self.is_local:
                return LocalFile(self.path(name)).read(start, end)
            return bytes(self._fs.cat_file(self.path(name), start=start, end=end))
        except FileNotFoundError as error:
            raise MissingPathError(f"{self.where(name)} does not exist") from error

    def open_local(self, name: str, mapped: bool) -> LocalFile | MappedFile:
        """A file of a local folder, for many reads. Raises MissingPathError."""
        try:
            return MappedFile(self.path(name)) if mapped else LocalFile(self.path(name))
        except FileNotFoundError as error:
            raise MissingPathError(f"{self.where(name)} does not exist") from error

    def write_bytes(self, name: str, data: bytes) -> None:
        """Atomically."""
        with self.writing(name) as file:
            file.write(data)

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """A binary file, also readable and seekable: it becomes `name` when the block ends well, else it is gone."""
        folder = os.path.dirname(self.path(name)) if self.is_local else None
        if folder is not None:
            os.makedirs(folder, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=folder)
        try:
            with os.fdopen(handle, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if folder is not None:
                os.chmod(temporary, 0o644)
                os.replace(temporary, self.path(name))
                _sync_folder(folder)
            else:
                self._fs.put_file(temporary, self.path(name))
        finally:
            if os.path.exists(temporary):
                os.unlink(temporary)

    def remove(self, name: str) -> None:
        """A file or a whole folder; nothing happens when there is none."""
        path = self.path(name)
        if not self.exists(name):
            return
        if not self.is_local:
            self._fs.rm(path, recursive=True)
        elif os.path.isdir(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)

    def remove_temporary(self) -> None:
        """Deletes what writers that were killed left behind. For a moment when nobody writes here."""
        if not self.is_local:
            return  # temporary files of other addresses lie in this machine's own temporary folder
        for folder, _, names in os.walk(self.root):
            for name in names:
                if name.startswith(TEMPORARY_PREFIX):
                    os.unlink(os.path.join(folder, name))


def _sync_folder(folder: str) -> None:
    # Without this a rename may be lost at a power cut although the file's contents are on the disk.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

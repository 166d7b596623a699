"""Reads a shard set: whole tars in order, or single samples by one ranged read each."""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Iterator
from pathlib import Path

from frozenseg.errors import MissingPathError, UserInputError
from frozenseg.types import EncodedSample, ShardFile
from shards.manifest import read_manifest
from shards.members import (
    END_OF_TAR,
    DamagedShardError,
    RawSample,
    cut_sample,
    read_sample,
    sample_offsets,
)
from shards.storage import LocalFile, MappedFile, Storage

RUN_BYTES = 1 << 17
"""Read at once when a tar is read in order: little enough to be still in the processor's cache when it is cut."""
MAX_OPEN_FILES = 32


class ShardReader:
    """A finished shard set at a local or fsspec address. Cheap to pickle: a copy opens the address again.

    Samples are numbered 0 to len(reader) - 1 in the order of the manifest.

    Args:
        mapped: read local files through memory maps: faster for large samples, but an error of the disk ends the
            process (see `shards.storage.MappedFile`) instead of being raised.

    Raises:
        MissingPathError, FormatVersionError, UserInputError: see `shards.manifest.read_manifest`.
    """

    def __init__(self, address: str | Path, mapped: bool = False) -> None:
        self.storage = Storage(address)
        self.mapped = mapped
        self.manifest = read_manifest(self.storage)
        self._starts: list[int] = []
        total = 0
        for file in self.manifest.files:
            self._starts.append(total)
            total += len(file.sample_ids)
        self._num_samples = total
        self._index_of_id: dict[str, int] | None = None
        self._files: dict[str, LocalFile | MappedFile] = {}

    def __reduce__(self) -> tuple[type[ShardReader], tuple[str, bool]]:
        return ShardReader, (self.storage.address, self.mapped)

    def __len__(self) -> int:
        return self._num_samples

    def locate(self, index: int) -> tuple[ShardFile, int]:
        """The file that holds sample `index`, and the sample's position in it. Raises IndexError."""
        if not 0 <= index < self._num_samples:
            raise IndexError(f"sample {index} of {self._num_samples}")
        number = bisect.bisect_right(self._starts, index) - 1
        return self.manifest.files[number], index - self._starts[number]

    def index_of(self, image_id: str) -> int:
        """The number of the sample with this id. Raises UserInputError when there is none."""
        if self._index_of_id is None:
            ids = (sample_id for file in self.manifest.files for sample_id in file.sample_ids)
            self._index_of_id = {sample_id: index for index, sample_id in enumerate(ids)}
        if image_id not in self._index_of_id:
            raise UserInputError(f"{self.storage.address} holds no image with the id {image_id!r}")
        return self._index_of_id[image_id]

    def __getitem__(self, index: int) -> EncodedSample:
        """Sample `index`, read alone.

        Raises:
            DamagedShardError: the bytes there are not that sample.
        """
        return self.raw(index).parsed(self.storage.where(self.locate(index)[0].name))

    def raw(self, index: int) -> RawSample:
        """Sample `index`, read alone, as it lies in the tar: every header's checksum, the id and the sizes are checked,
        contents are not. Raises as `reader[index]`."""
        file, position = self.locate(index)
        start, end = _bounds(file, position)
        where = self.storage.where(file.name)
        image_id = file.sample_ids[position]
        if self.storage.is_local:
            return read_sample(image_id, self._opened(file.name).read, start, end, where)
        # One request, however large: a round trip costs more than a copy.
        return cut_sample(image_id, self.storage.read_range(file.name, start, end), 0, end - start, where, start)

    def read(self, file: ShardFile) -> Iterator[EncodedSample]:
        """The samples of one tar in order. Raises as `read_raw`."""
        where = self.storage.where(file.name)
        for sample in self.read_raw(file):
            yield sample.parsed(where)

    def read_raw(self, file: ShardFile) -> Iterator[RawSample]:
        """The samples of one tar in order, as they lie there.

        Raises:
            DamagedShardError: naming the tar, when its size, structure or ids are not the manifest's. Contents are
                compared by `verify` only, which costs a hash of the whole file.
        """
        where = self.storage.where(file.name)
        if not self.storage.is_local:
            data = self._whole(file)
            for number, image_id in enumerate(file.sample_ids):
                yield cut_sample(image_id, data, *_bounds(file, number), where, 0)
            return
        try:
            opened = self._opened(file.name)
        except MissingPathError as error:
            raise DamagedShardError(f"{where} is missing; the manifest lists it") from error
        self._check_size(file, opened.num_bytes)
        for first, last in _runs(file):
            begin, end = _bounds(file, first)[0], _bounds(file, last - 1)[1]
            if last - first == 1:
                yield read_sample(file.sample_ids[first], opened.read, begin, end, where)
                continue
            data = opened.read(begin, end)
            for number in range(first, last):
                start, stop = _bounds(file, number)
                yield cut_sample(file.sample_ids[number], data, start - begin, stop - begin, where, begin)

    def __iter__(self) -> Iterator[EncodedSample]:
        for file in self.manifest.files:
            yield from self.read(file)

    def verify(self, file: ShardFile) -> None:
        """Compares size, digest, ids and offsets with the manifest.

        Raises:
            DamagedShardError: naming the tar and what differs.
        """
        where = self.storage.where(file.name)
        data = self._whole(file)
        found = hashlib.sha256(data).hexdigest()
        if found != file.sha256:
            raise DamagedShardError(f"{where} is damaged: sha256 {file.sha256[:12]}… expected, {found[:12]}… found")
        if list(sample_offsets(data, where)) != list(zip(file.sample_offsets, file.sample_ids, strict=True)):
            raise DamagedShardError(f"{where} does not hold the samples that the manifest lists")
        for number, image_id in enumerate(file.sample_ids):
            cut_sample(image_id, data, *_bounds(file, number), where, 0).parsed(where)

    def _opened(self, name: str) -> LocalFile | MappedFile:
        """Kept open: opening costs more than reading a small sample. The file opened first is closed first."""
        file = self._files.get(name)
        if file is None:
            if len(self._files) >= MAX_OPEN_FILES:
                self._files.pop(next(iter(self._files)), None)
            file = self._files[name] = self.storage.open_local(name, self.mapped)
        return file

    def _whole(self, file: ShardFile) -> bytes:
        where = self.storage.where(file.name)
        try:
            data = self.storage.read_bytes(file.name)
        except MissingPathError as error:
            raise DamagedShardError(f"{where} is missing; the manifest lists it") from error
        self._check_size(file, len(data))
        return data

    def _check_size(self, file: ShardFile, found: int) -> None:
        if found != file.num_bytes:
            where = self.storage.where(file.name)
            raise DamagedShardError(f"{where} is damaged: {file.num_bytes} bytes expected, {found} found")


def _bounds(file: ShardFile, position: int) -> tuple[int, int]:
    """Where a sample begins and ends in its tar."""
    offsets = file.sample_offsets
    end = offsets[position + 1] if position + 1 < len(offsets) else file.num_bytes - len(END_OF_TAR)
    return offsets[position], end


def _runs(file: ShardFile) -> Iterator[tuple[int, int]]:
    """[first, last) of neighbours that are read in one piece: as many as fit `RUN_BYTES`, at least one."""
    first, begin = 0, 0
    for number in range(len(file.sample_ids)):
        start, end = _bounds(file, number)
        if number > first and end - begin > RUN_BYTES:
            yield first, number
            first = number
        if number == first:
            begin = start
    if file.sample_ids:
        yield first, len(file.sample_ids)

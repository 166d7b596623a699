"""Reads a shard set: whole tars in order, or single samples by one ranged read each."""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Iterator
from pathlib import Path

from frozenseg.errors import MissingPathError, UserInputError
from frozenseg.types import EncodedSample, ShardFile
from shards.manifest import read_manifest
from shards.members import END_OF_TAR, DamagedShardError, decode_members
from shards.storage import Storage


class ShardReader:
    """A finished shard set at a local or fsspec address. Cheap to pickle: a copy opens the address again.

    Samples are numbered 0 to len(reader) - 1 in the order of the manifest.

    Raises:
        MissingPathError, FormatVersionError, UserInputError: see `shards.manifest.read_manifest`.
    """

    def __init__(self, address: str | Path) -> None:
        self.storage = Storage(address)
        self.manifest = read_manifest(self.storage)
        self._starts: list[int] = []
        total = 0
        for file in self.manifest.files:
            self._starts.append(total)
            total += len(file.sample_ids)
        self._num_samples = total
        self._index_of_id: dict[str, int] | None = None

    def __reduce__(self) -> tuple[type[ShardReader], tuple[str]]:
        return ShardReader, (self.storage.address,)

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
        file, position = self.locate(index)
        bounds = (*file.sample_offsets, file.num_bytes - len(END_OF_TAR))
        data = self.storage.read_range(file.name, bounds[position], bounds[position + 1])
        where = self.storage.where(file.name)
        found = list(decode_members(data, where))
        if len(found) != 1 or found[0][1].image_id != file.sample_ids[position]:
            raise DamagedShardError(f"{where} is damaged: no whole sample {file.sample_ids[position]!r} at its place")
        return found[0][1]

    def read(self, file: ShardFile) -> Iterator[EncodedSample]:
        """The samples of one tar in order, read in one piece.

        Raises:
            DamagedShardError: naming the tar, when its size, structure or ids are not the manifest's. Contents are
                compared by `verify` only, which costs a hash of the whole file.
        """
        where = self.storage.where(file.name)
        data = self._whole(file)
        num_read = 0
        for _, sample in decode_members(data, where):
            if num_read >= len(file.sample_ids) or sample.image_id != file.sample_ids[num_read]:
                raise DamagedShardError(f"{where} is damaged: found sample {sample.image_id!r} where none should be")
            num_read += 1
            yield sample
        if num_read != len(file.sample_ids):
            raise DamagedShardError(f"{where} is damaged: {num_read} samples of {len(file.sample_ids)}")

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
        contents = [(offset, sample.image_id) for offset, sample in decode_members(data, where)]
        if contents != list(zip(file.sample_offsets, file.sample_ids, strict=True)):
            raise DamagedShardError(f"{where} does not hold the samples that the manifest lists")

    def _whole(self, file: ShardFile) -> bytes:
        where = self.storage.where(file.name)
        try:
            data = self.storage.read_bytes(file.name)
        except MissingPathError as error:
            raise DamagedShardError(f"{where} is missing; the manifest lists it") from error
        if len(data) != file.num_bytes:
            raise DamagedShardError(f"{where} is damaged: {file.num_bytes} bytes expected, {len(data)} found")
        return data

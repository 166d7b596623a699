"""Writes one tar, whole or not at all, and verified before it gets its name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from frozenseg.types import EncodedSample, ShardFile
from shards.members import END_OF_TAR, BadSampleError, DamagedShardError, encode_sample, member_header, padding
from shards.storage import Storage

_CHUNK = 1 << 20


def write_shard(samples: Iterable[EncodedSample], path: str | Path) -> ShardFile:
    """Writes the tar at a local path; see `write_shard_to`."""
    path = Path(path)
    return write_shard_to(Storage(path.parent), path.name, samples)


def write_shard_to(storage: Storage, name: str, samples: Iterable[EncodedSample]) -> ShardFile:
    """Writes the samples in the order given. The same samples give the same bytes, always.

    The file is read back and compared before it becomes visible under its name.

    Raises:
        BadSampleError: a sample that the format cannot hold, or an id that occurs twice. Nothing is left behind.
        DamagedShardError: the disk returned other bytes than were written.
    """
    sample_ids: list[str] = []
    offsets: list[int] = []
    with storage.writing(name) as file:
        digest = hashlib.sha256()
        position = 0
        for sample in samples:
            sample_ids.append(sample.image_id)
            offsets.append(position)
            for member, data in encode_sample(sample):
                for piece in (member_header(member, len(data)), data, padding(len(data))):
                    file.write(piece)
                    digest.update(piece)
                    position += len(piece)
        file.write(END_OF_TAR)
        digest.update(END_OF_TAR)
        if len(set(sample_ids)) != len(sample_ids):
            twice = next(i for i in sample_ids if sample_ids.count(i) > 1)
            raise BadSampleError(f"{storage.where(name)}: image id {twice!r} occurs twice")
        _verify_written(file, digest.hexdigest(), storage.where(name))
    return ShardFile(
        name=name,
        num_bytes=position + len(END_OF_TAR),
        sha256=digest.hexdigest(),
        sample_ids=tuple(sample_ids),
        sample_offsets=tuple(offsets),
    )


def _verify_written(file: BinaryIO, expected: str, where: str) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    if digest.hexdigest() != expected:
        raise DamagedShardError(f"{where}: what was read back is not what was written; is the disk failing?")

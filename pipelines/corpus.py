"""The images to label: folders, globs, lists, single files, local or at any fsspec address, and shard sets."""

from __future__ import annotations

import functools
import glob
import hashlib
import posixpath
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import fsspec

from frozenseg.data.files import absolute, is_remote, list_files, read_bytes
from frozenseg.data.images import IMAGE_SUFFIXES
from frozenseg.errors import MissingPathError, UserInputError
from shards import MANIFEST_NAME, ShardReader, Storage

_SHARD_MARK = "shards::"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageReference:
    """One image of the corpus: image_id: unique, without dots and slashes; address: of the file, or of a shard set
    followed by the sample's number; file_name: relative to the corpus."""

    image_id: str
    address: str
    file_name: str


def find_corpus(address: str) -> list[ImageReference]:
    """Every image at the address, in a fixed order.

    Args:
        address: a folder (searched to any depth), a glob, a .txt list of addresses, an image file, or a shard set.

    Raises:
        MissingPathError: nothing there.
        UserInputError: no image there.
    """
    address = absolute(address)
    if "*" in address:
        root, names = _globbed(address)
    elif address.lower().endswith(".txt"):
        lines = read_bytes(address, "list of images").decode().splitlines()
        names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        root = "" if any(is_remote(name) for name in names) else posixpath.dirname(address)
    elif address.lower().endswith(IMAGE_SUFFIXES):
        root, names = posixpath.dirname(address), [posixpath.basename(address)]
    elif Storage(address).exists(MANIFEST_NAME):
        return _of_shards(address)
    else:
        root, names = address, list_files(address, IMAGE_SUFFIXES, recursive=True)
    if not names:
        raise UserInputError(f"{address}: expected images ({', '.join(IMAGE_SUFFIXES)}), found none")
    ids = image_ids(names)
    return [
        ImageReference(image_id=image_id, address=posixpath.join(root, name), file_name=name)
        for image_id, name in zip(ids, names, strict=True)
    ]


def read_image_bytes(reference: ImageReference) -> bytes:
    """Raises UserInputError when the file is gone or the shard damaged."""
    if not reference.address.startswith(_SHARD_MARK):
        return read_bytes(reference.address, f"image {reference.image_id!r}")
    address, _, number = reference.address.removeprefix(_SHARD_MARK).rpartition("#")
    return _reader(address)[int(number)].image_bytes


def image_ids(names: Sequence[str]) -> list[str]:
    """A text id for each file name: the name without its ending where that is allowed and unique, else with a hash."""
    plain = [re.sub(r"[^A-Za-z0-9_\-]", "_", name.rpartition(".")[0] or name) for name in names]
    counts = Counter(plain)
    ids = []
    for name, candidate in zip(names, plain, strict=True):
        if candidate == name.rpartition(".")[0] and counts[candidate] == 1 and len(candidate) <= 60:
            ids.append(candidate)
        else:
            ids.append(f"{candidate[-51:]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}")
    return ids


def _globbed(pattern: str) -> tuple[str, list[str]]:
    """The folder before the first wildcard, and the matches below it."""
    root = pattern.split("*", 1)[0].rpartition("/")[0]
    if is_remote(pattern):
        filesystem, path = fsspec.core.url_to_fs(pattern)
        inner_root = fsspec.core.url_to_fs(root)[1].rstrip("/")
        matches = [str(match) for match in filesystem.glob(path)]
    else:
        inner_root, matches = root, glob.glob(pattern, recursive=True)
    names = sorted(match[len(inner_root) + 1 :] for match in matches if match.lower().endswith(IMAGE_SUFFIXES))
    if not names:
        raise MissingPathError(f"{pattern}: no image matches")
    return root, names


@functools.lru_cache(maxsize=4)
def _reader(address: str) -> ShardReader:
    return ShardReader(address)


def _of_shards(address: str) -> list[ImageReference]:
    ids = (image_id for file in ShardReader(address).manifest.files for image_id in file.sample_ids)
    return [
        ImageReference(image_id=image_id, address=f"{_SHARD_MARK}{address}#{number}", file_name=image_id)
        for number, image_id in enumerate(ids)
    ]

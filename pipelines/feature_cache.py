"""Features of fixed views, kept and found again by what they were computed from: the pixels and the encoders.

An entry's address is a hash of the crop's bytes (which image, window and flip together decide), of the encoders'
weights, of the dtype they compute in, of the codec and of the version of this code: nothing that changes any of them
can find an old entry. Each entry carries its own checksum; a damaged one counts as missing and is written anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import fsspec
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from frozenseg.errors import MissingPathError, UserInputError
from pipelines.columns import IMAGE, LEVELS, SAM, VALID_SIZE, Columns
from shards import Storage

logger = logging.getLogger(__name__)
VERSION = 1
"""Counts up with every change of the encoders' code that changes what they give."""
CachedMaps = Literal["all", "sam"]
_DIGEST_BYTES = 32
_TRIM_SHARE = 0.02
"""Of the budget: after that many new bytes the cache looks how large it has become."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOptions:
    """Where features are kept, and how many.

    Fields: address: folder or fsspec address, the same for every actor; num_views: augmentations of an image that
    repeat: epoch e takes view e mod num_views; maps: `all`, or those of SAM alone, whose encoder costs the most and
    whose map is a small part of the bytes (COCO at 1024 in 16 bit: 248 GB a view beside 5.8 TB); budget_gb: of one
    folder in 2^30 bytes, None for no bound.
    """

    address: str
    num_views: int = 1
    maps: CachedMaps = "all"
    budget_gb: float | None = None

    def __post_init__(self) -> None:
        if self.num_views < 1:
            raise UserInputError(f"cache: expected at least one view, found num_views = {self.num_views}")
        if self.budget_gb is not None and self.budget_gb <= 0:
            raise UserInputError(f"cache: expected a budget above 0 GB, found {self.budget_gb}")


class FeatureCache:
    """The entries of one set of encoders in one codec.

    Args:
        fingerprint: of all that decides the features besides the pixels; entries of other fingerprints share the folder
            and the budget, and are the first to go.
    """

    def __init__(self, options: CacheOptions, fingerprint: str) -> None:
        self.options = options
        self.folder = hashlib.sha256(f"{VERSION}\0{options.maps}\0{fingerprint}".encode()).hexdigest()[:16]
        self.storage = Storage(options.address)
        self.num_hits = 0
        self.num_misses = 0
        self._new_bytes = 0
        self._is_full = False
        if options.budget_gb is not None:
            self.trim()

    def names(self, columns: Columns) -> list[str]:
        """The entries' names for image columns: IMAGE [B,3,H,W] uint8 and VALID_SIZE [B,2]."""
        names = []
        for image, valid_size in zip(columns[IMAGE], columns[VALID_SIZE], strict=True):
            digest = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=20)
            digest.update(repr((image.shape, tuple(int(side) for side in valid_size))).encode())
            key = digest.hexdigest()
            names.append(f"{self.folder}/{key[:2]}/{key}")
        return names

    def read(self, name: str) -> Columns | None:
        """One image's maps, each without the batch axis, or None when there is no whole entry."""
        try:
            data = self.storage.read_bytes(name)
        except MissingPathError:
            self.num_misses += 1
            return None
        digest, content = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        try:
            if hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest() != digest:
                raise ValueError("its checksum is another")
            maps = load(content)
        except (ValueError, SafetensorError) as error:
            logger.warning("feature cache: %s is damaged (%s) and is made anew", self.storage.where(name), error)
            self.num_misses += 1
            return None
        self.num_hits += 1
        return maps

    def write(self, name: str, maps: Mapping[str, npt.NDArray[Any]]) -> None:
        """Keeps one image's maps, unless the budget is used up."""
        if self._is_full:
            return
        content = save({key: np.ascontiguousarray(values) for key, values in maps.items()})
        data = hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest() + content
        self.storage.write_bytes(name, data)
        self._new_bytes += len(data)
        if self.options.budget_gb is not None and self._new_bytes > _TRIM_SHARE * self._budget:
            self.trim()

    @property
    def _budget(self) -> int:
        return int((self.options.budget_gb or 0) * 2**30)

    def trim(self) -> None:
        """Removes entries until the folder keeps to the budget: those of other encoders and settings first, then the
        oldest. Views come round again in turn, so of a set that doesn't fit, a part that stays gives hits in every
        round where replacing the oldest would give none: a full cache takes no more of its own kind."""
        self._new_bytes = 0
        entries = self._entries()
        total = sum(size for _, _, size, _ in entries)
        # Foreign entries come first (False < True), the oldest of each kind before the newer.
        for own, _, size, path in sorted(entries):
            if total <= self._budget * (1.0 if own else 1 - 2 * _TRIM_SHARE):
                break
            self._remove(path)
            total -= size
        own_bytes = sum(size for own, _, size, _ in entries if own)
        if own_bytes > self._budget * (1 - 2 * _TRIM_SHARE) and not self._is_full:
            self._is_full = True
            logger.warning("feature cache: %s is full: %.2f GB", self.options.address, own_bytes / 2**30)

    def _entries(self) -> list[tuple[bool, float, int, str]]:
        """(of this fingerprint, time of change, bytes, path) of every entry."""
        filesystem, root = fsspec.core.url_to_fs(self.options.address)
        if not filesystem.exists(root):
            return []
        filesystem.invalidate_cache()
        found = []
        for path, info in filesystem.find(root, detail=True).items():
            own = str(path)[len(root.rstrip("/")) + 1 :].startswith(f"{self.folder}/")
            changed = info.get("mtime") or info.get("LastModified") or info.get("created") or 0
            seconds = changed.timestamp() if hasattr(changed, "timestamp") else float(changed)
            found.append((own, seconds, int(info["size"]), str(path)))
        return found

    def _remove(self, path: str) -> None:
        filesystem, _ = fsspec.core.url_to_fs(self.options.address)
        with contextlib.suppress(FileNotFoundError):  # another actor was faster
            filesystem.rm_file(path)


def is_cached(column: str, maps: CachedMaps) -> bool:
    """Whether a feature column is one of the maps that are kept, the scales and offsets of a codec included."""
    name = column.split(".", 1)[0]
    return name == SAM or (maps == "all" and name in LEVELS)

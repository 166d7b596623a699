"""The manifest of a shard set: what it is, file by file, as one JSON document written after everything else."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from frozenseg.errors import FormatVersionError, MissingPathError, UserInputError
from frozenseg.types import Category, ShardFile, ShardManifest, SkippedSample, Vocabulary
from shards.storage import Storage

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"


def write_manifest(storage: Storage, manifest: ShardManifest) -> None:
    """Atomically. Readers look for this file first, so a set without it is one that is still being written."""
    storage.write_bytes(MANIFEST_NAME, (json.dumps(asdict(manifest), sort_keys=True) + "\n").encode())


def read_manifest(storage: Storage) -> ShardManifest:
    """The manifest of the set at this address.

    Raises:
        MissingPathError: no such set, or one that was never finished.
        FormatVersionError: written by a version of the format that this code does not read.
        UserInputError: not a manifest, or one whose parts contradict each other.
    """
    where = storage.where(MANIFEST_NAME)
    try:
        data = storage.read_bytes(MANIFEST_NAME)
    except MissingPathError as error:
        raise MissingPathError(
            f"{storage.address} is no finished shard set: {MANIFEST_NAME} is missing (it is written last)"
        ) from error
    try:
        record = json.loads(data)
        version = record["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserInputError(f"{where} is not the manifest of a shard set: {error!r}") from error
    if version != FORMAT_VERSION:
        raise FormatVersionError(f"{where} has format version {version!r}; this code reads version {FORMAT_VERSION}")
    try:
        manifest = _from_record(record)
    except (KeyError, TypeError, ValueError) as error:
        raise UserInputError(f"{where} is damaged or incomplete: {error!r}") from error
    if manifest.vocabulary.content_hash != manifest.vocabulary_hash:
        raise UserInputError(f"{where} is damaged: its vocabulary does not have the hash that it states")
    return manifest


def _from_record(record: dict[str, Any]) -> ShardManifest:
    categories = tuple(
        Category(
            name=category["name"],
            synonyms=tuple(category["synonyms"]),
            is_thing=category["is_thing"],
            dataset_id=category["dataset_id"],
            color=tuple(category["color"]) if category["color"] else None,
        )
        for category in record["vocabulary"]["categories"]
    )
    return ShardManifest(
        format_version=record["format_version"],
        files=tuple(shard_file_from_record(file) for file in record["files"]),
        columns=tuple(record["columns"]),
        vocabulary=Vocabulary(categories=categories, name=record["vocabulary"]["name"]),
        vocabulary_hash=record["vocabulary_hash"],
        source=dict(record["source"]),
        skipped=tuple(SkippedSample(**skipped) for skipped in record["skipped"]),
    )


def shard_file_from_record(record: dict[str, Any]) -> ShardFile:
    """The inverse of `dataclasses.asdict`."""
    file = ShardFile(
        name=record["name"],
        num_bytes=record["num_bytes"],
        sha256=record["sha256"],
        sample_ids=tuple(record["sample_ids"]),
        sample_offsets=tuple(record["sample_offsets"]),
    )
    if len(file.sample_ids) != len(file.sample_offsets):
        raise ValueError(f"{file.name}: {len(file.sample_ids)} sample ids but {len(file.sample_offsets)} offsets")
    return file

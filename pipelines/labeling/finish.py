"""The last step of labeling: errors.parquet, merged files, statistics, the review page, and the manifest of it all."""

from __future__ import annotations

import json
from collections.abc import Sequence

from frozenseg.types import ShardFile, ShardManifest, SkippedSample, Vocabulary
from pipelines.labeling.merge import merge
from pipelines.labeling.options import LabelOptions
from pipelines.labeling.quality import queue_table, summarize
from pipelines.labeling.review import write_review
from pipelines.labeling.tables import parquet_bytes
from pipelines.segmenter_pool import PartStore
from shards import FORMAT_VERSION, MANIFEST_NAME, Storage, write_manifest
from shards.manifest import shard_file_from_record


def finish(store: PartStore, num_parts: int, vocabulary: Vocabulary, options: LabelOptions, notice: str) -> None:
    """Reads one part at a time; the manifest is written last."""
    storage, numbers = store.storage, range(num_parts)
    storage.remove_temporary()
    errors: list[dict[str, str]] = []
    shard_files: list[ShardFile] = []
    columns: set[str] = set()
    num_labelled = 0
    for number in numbers:
        record = store.read(number)
        num_labelled += len(record["image_ids"])
        errors += record["errors"]
        if record.get("shard") and record["image_ids"]:
            shard_files.append(shard_file_from_record(record["shard"]))
            columns.update(record["columns"])
    storage.write_bytes("errors.parquet", _errors_table(errors))
    for name in options.formats:
        merge(storage, name, numbers, vocabulary)
    if "webdataset" in options.formats:
        _write_shard_manifest(storage, shard_files, columns, errors, vocabulary, notice)
    _write_quality(storage, numbers, vocabulary, options, notice)
    summary = {
        "format_version": 1,
        "notice": notice,
        "num_labelled": num_labelled,
        "num_errors": len(errors),
        "num_parts": num_parts,
        "formats": list(options.formats),
        "vocabulary": [category.name for category in vocabulary.categories],
    }
    storage.write_bytes(MANIFEST_NAME, (json.dumps(summary, indent=1) + "\n").encode())


def _write_quality(
    storage: Storage,
    numbers: Sequence[int],
    vocabulary: Vocabulary,
    options: LabelOptions,
    notice: str,
) -> None:
    num_shown = options.review_images if options.review else 0
    summary = summarize(storage, numbers, vocabulary, options.queue_length, num_shown)
    statistics = {**summary.statistics, "notice": notice}
    storage.write_bytes("statistics.json", (json.dumps(statistics, indent=1) + "\n").encode())
    storage.write_bytes("review_queue.parquet", queue_table(summary.queue))
    if options.review:
        write_review(storage, numbers, vocabulary, summary.shown, notice)


def _write_shard_manifest(
    storage: Storage,
    shard_files: list[ShardFile],
    columns: set[str],
    errors: list[dict[str, str]],
    vocabulary: Vocabulary,
    notice: str,
) -> None:
    manifest = ShardManifest(
        format_version=FORMAT_VERSION,
        files=tuple(shard_files),
        columns=tuple(sorted(columns)),
        vocabulary=vocabulary,
        vocabulary_hash=vocabulary.content_hash,
        source={"kind": "frozenseg labels"} | ({"notice": notice} if notice else {}),
        skipped=tuple(SkippedSample(image_id=e["image_id"], reason=e["reason"]) for e in errors),
    )
    write_manifest(Storage(f"{storage.address}/webdataset"), manifest)


def _errors_table(errors: list[dict[str, str]]) -> bytes:
    import pyarrow as pa

    return parquet_bytes(errors, pa.schema({name: pa.string() for name in ("image_id", "file", "reason")}))

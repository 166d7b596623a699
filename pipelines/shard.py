"""A data set on disk -> a shard set, one Ray task per tar; a rerun does what is missing and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fsspec

from frozenseg.data import decode_annotation, decode_image
from frozenseg.data.dataset import SegmentationData, part_of
from frozenseg.data.files import is_remote
from frozenseg.errors import SkippedShareError, UserInputError
from frozenseg.types import EncodedSample, ShardFile, ShardManifest, SkippedSample
from pipelines.progress import StageProgress
from shards import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    ShardPlan,
    Storage,
    encode_sample,
    plan_shards,
    read_manifest,
    write_manifest,
    write_shard_to,
)
from shards.manifest import shard_file_from_record

PLAN_NAME = "_writing/plan.json"
RECORD_FOLDER = "_writing"
NUM_MEASURED_SAMPLES = 200
"""Samples read to find out how many of them make a shard of the wanted size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardOptions:
    """How to shard.

    Fields: to: folder or fsspec address; prefix: of the tars' names; shard_bytes: size target of a tar;
    samples_per_shard: takes the place of the size target; seed: of the scrambling; check_samples: decode image and
    truth of every sample while it is at hand; max_skipped_share: of the samples that may be unusable; overwrite: forget
    what lies at `to` when it was made from another source or with other settings.
    """

    to: str
    prefix: str = "shard"
    shard_bytes: int = 256 * 2**20
    samples_per_shard: int | None = None
    seed: int = 0
    check_samples: bool = True
    max_skipped_share: float = 0.001
    overwrite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardJob:
    """One tar to write. `source` holds this tar's samples only, so that a task carries no more than it needs."""

    plan: ShardPlan
    source: SegmentationData
    to: str
    check_samples: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardResult:
    """What a task says of its tar; written beside it until the manifest holds the same."""

    file: ShardFile
    columns: tuple[str, ...]
    skipped: tuple[SkippedSample, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardReport:
    """manifest: of the finished set; num_written: tars written by this run, the others were there already."""

    manifest: ShardManifest
    num_written: int


def shard_coco(source: SegmentationData, options: ShardOptions, log_path: Path | None = None) -> ShardReport:
    """Writes the set, or what is missing of it; needs a started Ray only when anything is.

    Raises:
        UserInputError: the folder holds a set of another source or of other settings.
        SkippedShareError: too many unusable samples. The tars are kept, the manifest is not written.
    """
    if len(source) == 0:
        raise UserInputError("shards: the data set holds no image")
    storage = Storage(options.to)
    settings = describe(source, options)
    _agree_on_settings(storage, settings, options)
    plans = plan_shards(len(source), int(settings["samples_per_shard"]), options.prefix, options.seed)
    finished = _finished(storage, plans, source)
    missing = [plan for plan in plans if plan.name not in finished]
    jobs = [_job(plan, source, options) for plan in missing]
    progress = StageProgress("shard", len(source), log_path=log_path)
    for result in _run(jobs):
        finished[result.file.name] = result
        progress.add(len(result.file.sample_ids) + len(result.skipped))
    if jobs:
        progress.finish()
    results = [finished[plan.name] for plan in plans]
    manifest = _manifest(source, settings, results)
    share = len(manifest.skipped) / len(source)
    if share > options.max_skipped_share:
        listing = "; ".join(f"{s.image_id}: {s.reason}" for s in manifest.skipped[:5])
        raise SkippedShareError(
            f"{len(manifest.skipped)} of {len(source)} samples cannot be used, more than the share of "
            f"{options.max_skipped_share:g} that is allowed: {listing}"
        )
    storage.remove_temporary()
    write_manifest(storage, manifest)
    storage.remove(RECORD_FOLDER)
    return ShardReport(manifest=manifest, num_written=len(jobs))


def describe(source: SegmentationData, options: ShardOptions) -> dict[str, str]:
    """What decides the bytes of the set, as text; two runs into one folder must agree on all of it."""
    per_shard = options.samples_per_shard or _samples_per_shard(source, options.shard_bytes)
    return {
        "kind": "coco-panoptic",
        "fingerprint": fingerprint(source),
        "vocabulary": source.vocabulary.content_hash,
        "num_samples": str(len(source)),
        "samples_per_shard": str(per_shard),
        "prefix": options.prefix,
        "seed": str(options.seed),
    }


def fingerprint(source: SegmentationData) -> str:
    """sha256 over the annotation file's bytes, if there is one, and over name, size and time of change of every file.

    Contents are not read: that would cost as much as sharding itself.
    """
    digest = hashlib.sha256(source.identity())
    for folder, names in source.files():
        for stamp in _stamps(folder, names):
            digest.update(stamp.encode())
    return digest.hexdigest()


def _stamps(folder: str, names: Sequence[str]) -> Iterator[str]:
    if not is_remote(folder):
        for name in names:
            try:
                info = (Path(folder) / name).stat()
                yield f"{name}\0{info.st_size}\0{info.st_mtime_ns}\n"
            except FileNotFoundError:
                yield f"{name}\0missing\n"
        return
    filesystem, root = fsspec.core.url_to_fs(folder)
    found = filesystem.find(root, detail=True)
    for name in names:
        info = found.get(f"{root.rstrip('/')}/{name}", {})
        changed = info.get("ETag") or info.get("etag") or info.get("LastModified") or info.get("mtime") or ""
        yield f"{name}\0{info.get('size', 'missing')}\0{changed}\n"


def _samples_per_shard(source: SegmentationData, shard_bytes: int) -> int:
    """From evenly spread samples, so that the answer is the same in every run."""
    step = max(1, len(source) // NUM_MEASURED_SAMPLES)
    sizes = []
    for index in range(0, len(source), step):
        try:
            sizes.append(sum(len(data) + 1024 for _, data in encode_sample(source[index])))
        except UserInputError:
            continue  # an unusable sample is reported by the task that meets it
    return max(1, round(shard_bytes * len(sizes) / sum(sizes))) if sizes else 1


def _agree_on_settings(storage: Storage, settings: dict[str, str], options: ShardOptions) -> None:
    """Refuses to mix two sets in one folder; writes down what this one is."""
    existing = None
    if storage.exists(MANIFEST_NAME):
        existing = read_manifest(storage).source
    elif storage.exists(PLAN_NAME):
        existing = json.loads(storage.read_bytes(PLAN_NAME))
    if existing is not None and existing != settings:
        names = sorted(key for key in settings.keys() | existing.keys() if settings.get(key) != existing.get(key))
        if not options.overwrite:
            raise UserInputError(
                f"{options.to} holds shards of another source or other settings (different: {', '.join(names)}; "
                f"`fingerprint` means that files of the source changed): use another folder or --overwrite"
            )
        for name in storage.list_names():
            if name.endswith(".tar") or name in (MANIFEST_NAME, RECORD_FOLDER):
                storage.remove(name)
    if not storage.exists(MANIFEST_NAME):
        storage.write_bytes(PLAN_NAME, json.dumps(settings, indent=1).encode())


def _finished(storage: Storage, plans: Sequence[ShardPlan], source: SegmentationData) -> dict[str, ShardResult]:
    """The tars that are whole: those of the manifest whose size is right, else those with a record of their own."""
    candidates: list[ShardResult] = []
    if storage.exists(MANIFEST_NAME):
        manifest = read_manifest(storage)
        skipped = {s.image_id: s for s in manifest.skipped}
        for plan, file in zip(plans, manifest.files, strict=True):
            ids = [source.entries[index].image_id for index in plan.indices]
            left_out = tuple(skipped[image_id] for image_id in ids if image_id in skipped)
            candidates.append(ShardResult(file=file, columns=manifest.columns, skipped=left_out))
    else:
        names = {f"{plan.name}.json" for plan in plans} & set(storage.list_names(RECORD_FOLDER))
        candidates = [_read_record(storage.read_bytes(f"{RECORD_FOLDER}/{name}")) for name in sorted(names)]
    return {c.file.name: c for c in candidates if storage.size(c.file.name) == c.file.num_bytes}


def _read_record(data: bytes | str) -> ShardResult:
    record = json.loads(data)
    return ShardResult(
        file=shard_file_from_record(record["file"]),
        columns=tuple(record["columns"]),
        skipped=tuple(SkippedSample(**skipped) for skipped in record["skipped"]),
    )


def _job(plan: ShardPlan, source: SegmentationData, options: ShardOptions) -> ShardJob:
    return ShardJob(plan=plan, source=part_of(source, plan.indices), to=options.to, check_samples=options.check_samples)


def write_job(job: ShardJob) -> ShardResult:
    """Writes one tar, then its record: without the record the tar does not count as written."""
    skipped: list[SkippedSample] = []
    columns: set[str] = set()
    storage = Storage(job.to)
    file = write_shard_to(storage, job.plan.name, _usable_samples(job, skipped, columns))
    result = ShardResult(file=file, columns=tuple(sorted(columns)), skipped=tuple(skipped))
    storage.write_bytes(f"{RECORD_FOLDER}/{job.plan.name}.json", _record(result).encode())
    return result


def _record(result: ShardResult) -> str:
    return json.dumps(asdict(result))


def _usable_samples(job: ShardJob, skipped: list[SkippedSample], columns: set[str]) -> Iterator[EncodedSample]:
    for index, entry in enumerate(job.source.entries):
        try:
            sample = job.source[index]
            members = encode_sample(sample)
            if job.check_samples:
                _check(sample)
        except UserInputError as error:
            skipped.append(SkippedSample(image_id=entry.image_id, reason=str(error)))
            continue
        columns.update(name.split(".", 1)[1] for name, _ in members)
        yield sample


def _check(sample: EncodedSample) -> None:
    image = decode_image(sample.image_bytes, sample.image_id)
    truth = decode_annotation(sample)
    if tuple(truth.segment_ids.shape) != tuple(image.image.shape[1:]):
        raise UserInputError(
            f"image {sample.image_id!r}: expected a panoptic PNG of its size {tuple(image.image.shape[1:])}, "
            f"found {tuple(truth.segment_ids.shape)}"
        )


def _run(jobs: Sequence[ShardJob]) -> Iterable[ShardResult]:
    """One Ray Data task per job."""
    if not jobs:
        return
    import ray.data

    # A task fetches its own job only; Ray's columns hold numbers and text.
    references = [ray.put(job) for job in jobs]
    # Ray's type hints have functions of one argument only, though `fn_kwargs` are for others.
    rows: Any = ray.data.range(len(jobs), override_num_blocks=len(jobs))
    results = rows.map_batches(_run_batch, fn_kwargs={"jobs": references}, batch_size=1, num_cpus=1)
    for row in results.iter_rows():
        yield _read_record(row["record"])


def _run_batch(batch: dict[str, Any], jobs: Sequence[Any]) -> dict[str, Any]:
    import ray

    return {"record": [_record(write_job(ray.get(jobs[index]))) for index in batch["id"]]}


def _manifest(source: SegmentationData, settings: dict[str, str], results: Sequence[ShardResult]) -> ShardManifest:
    return ShardManifest(
        format_version=FORMAT_VERSION,
        files=tuple(result.file for result in results),
        columns=tuple(sorted({column for result in results for column in result.columns})),
        vocabulary=source.vocabulary,
        vocabulary_hash=source.vocabulary.content_hash,
        source=settings,
        skipped=tuple(skipped for result in results for skipped in result.skipped),
    )

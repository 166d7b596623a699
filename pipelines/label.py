"""Masks for a whole corpus of images, each exactly once, whatever dies on the way."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from frozenseg.data import decode_image
from frozenseg.data.files import absolute
from frozenseg.errors import SkippedShareError, UserInputError
from frozenseg.types import ImageSample, ShardManifest, SkippedSample, Vocabulary
from frozenseg.vocabulary import load_vocabulary
from pipelines.corpus import ImageReference, find_corpus, read_image_bytes
from pipelines.evaluate import hash_of
from pipelines.label_formats import FORMATS, MERGED, LabelFormat, LabelledImage, merge, write_part
from pipelines.progress import StageProgress
from pipelines.segmenter_pool import (
    RECORD_FOLDER,
    PartStore,
    PoolOptions,
    SegmenterSource,
    prefetched,
    run_parts,
    slices,
)
from shards import FORMAT_VERSION, MANIFEST_NAME, Storage, write_manifest
from shards.manifest import shard_file_from_record

MIN_IMAGES_FOR_SHARE = 100
"""Before so many images a share of errors says nothing, unless the corpus is smaller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelOptions:
    """How to label.

    Fields: to: folder or fsspec address; vocabulary: published name, file or text; formats; options: of inference, by
    name, over the model folder's; min_score: segments below it become void; min_area: smaller segments too, in pixels;
    images_per_part: what is done again at most when something dies; max_error_share: of images that cannot be read.
    """

    to: str
    vocabulary: str
    formats: tuple[LabelFormat, ...] = ("coco-panoptic",)
    options: dict[str, Any] = field(default_factory=dict)
    min_score: float = 0.0
    min_area: int = 0
    images_per_part: int = 64
    max_error_share: float = 0.01

    def __post_init__(self) -> None:
        unknown = sorted(set(self.formats) - set(FORMATS))
        if unknown or not self.formats:
            raise UserInputError(
                f"formats: expected some of {', '.join(FORMATS)}; found {', '.join(unknown) or 'none'}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelReport:
    """num_images: of the corpus; num_labelled: by this run; num_errors: images that could not be read, in all runs;
    notice: that weights are random, else empty."""

    num_images: int
    num_labelled: int
    num_errors: int
    notice: str = ""


class LabelActor:
    """Labels the images of one part after the other and writes them."""

    def __init__(self, segmenter: SegmenterSource, options: LabelOptions, to: str) -> None:
        self.segmenter = segmenter.build()
        self.vocabulary = load_vocabulary(options.vocabulary)
        self.inference = dataclasses.replace(self.segmenter.options, **options.options)
        self.options = options
        self.store = PartStore(to)

    def __call__(self, part: dict[str, Any]) -> dict[str, Any]:
        references = [ImageReference(**reference) for reference in part["images"]]
        labelled, errors = [], []
        for (number, reference), loaded in prefetched(enumerate(references, part["first"] + 1), _load):
            if isinstance(loaded, UserInputError):
                errors.append({"image_id": reference.image_id, "file": reference.file_name, "reason": str(loaded)})
            else:
                labelled.append(self._label(number, reference, *loaded))
        formats, notice = self.options.formats, self.segmenter.notice
        kept = write_part(self.store.storage, formats, part["number"], labelled, self.vocabulary, notice)
        self.store.write(
            part["number"], {"image_ids": [image.image_id for image in labelled], "errors": errors, **kept}
        )
        reasons = [error["reason"] for error in errors[:1]]
        return {"num_labelled": len(labelled), "num_errors": len(errors), "reasons": reasons}

    def _label(self, number: int, reference: ImageReference, data: bytes, image: ImageSample) -> LabelledImage:
        prediction = self.segmenter.predict_batch([image], self.vocabulary, self.inference)[0]
        result = drop_small(prediction.panoptic(self.options.min_score), self.options.min_area)
        semantic = None
        if "semantic-png" in self.options.formats:
            semantic = prediction.semantic(self.options.min_score).cpu().numpy()
        return LabelledImage(
            number=number,
            image_id=reference.image_id,
            file_name=reference.file_name,
            image_bytes=data,
            size=image.original_size,
            result=result,
            semantic=semantic,
        )


def drop_small(result: Any, min_area: int) -> Any:
    """Segments smaller than `min_area` pixels become void."""
    import torch

    small = [segment.id for segment in result.segments if segment.area < min_area]
    segment_ids = result.segment_ids.cpu()
    if small:
        segment_ids = segment_ids.masked_fill(torch.isin(segment_ids, torch.tensor(small, dtype=torch.int32)), 0)
    return dataclasses.replace(
        result, segment_ids=segment_ids, segments=tuple(s for s in result.segments if s.area >= min_area)
    )


def _load(item: tuple[int, ImageReference]) -> tuple[bytes, ImageSample]:
    _, reference = item
    data = read_image_bytes(reference)
    return data, decode_image(data, reference.image_id, file_name=reference.file_name)


def check(segmenter: SegmenterSource, options: LabelOptions) -> None:
    """What can be known before anything is built or written. Raises UserInputError."""
    segmenter.check()
    load_vocabulary(options.vocabulary)


def label(
    segmenter: SegmenterSource,
    images: str | Sequence[ImageReference],
    options: LabelOptions,
    pool: PoolOptions,
    log_path: Path | None = None,
) -> LabelReport:
    """Labels what is not labelled yet, then merges. Interrupted at any moment and called again, it ends with each image
    once: a part counts from the moment its record is written, which is after all its files.

    Args:
        images: what `find_corpus` found, or the address to look at.

    Raises:
        UserInputError: no images, a vocabulary that cannot be used, or a folder with labels of other settings.
        SkippedShareError: too many images that cannot be read; what was labelled stays.
    """
    vocabulary = load_vocabulary(options.vocabulary)
    references = find_corpus(images) if isinstance(images, str) else list(images)
    to = absolute(options.to)
    store = PartStore(to)
    store.agree_on(_settings(segmenter, references, vocabulary, options))
    ranges = list(enumerate(slices(len(references), options.images_per_part)))
    done = store.done()
    # What counts is per image, over all runs: the first run's errors are not forgotten by the second.
    progress = StageProgress("label", len(references), log_path=log_path)
    watch = _ErrorWatch(options.max_error_share, len(references))
    for number in sorted(done):
        record = store.read(number)
        watch.add(len(record["image_ids"]), len(record["errors"]), [error["reason"] for error in record["errors"][:1]])
    parts = [
        {"number": number, "first": indices.start, "images": [asdict(references[i]) for i in indices]}
        for number, indices in ranges
        if number not in done
    ]
    num_labelled = 0
    watch.check()
    for result in run_parts(LabelActor, {"segmenter": segmenter, "options": options, "to": to}, parts, pool):
        num_labelled += result["num_labelled"]
        watch.add(result["num_labelled"], result["num_errors"], result["reasons"])
        progress.add(result["num_labelled"] + result["num_errors"], errors=float(watch.num_errors))
        watch.check()
    if parts:
        progress.finish(errors=float(watch.num_errors))
    notice = segmenter.notice()
    if parts or not store.storage.exists(MANIFEST_NAME):
        _finish(store, [number for number, _ in ranges], vocabulary, options, notice)
    return LabelReport(
        num_images=len(references), num_labelled=num_labelled, num_errors=watch.num_errors, notice=notice
    )


def _settings(
    segmenter: SegmenterSource, references: Sequence[ImageReference], vocabulary: Vocabulary, options: LabelOptions
) -> dict[str, Any]:
    return {
        "model": segmenter.fingerprint(),
        "vocabulary": vocabulary.content_hash,
        "images": hash_of([reference.file_name for reference in references]),
        "num_images": len(references),
        "formats": sorted(options.formats),
        "options": options.options,
        "min_score": options.min_score,
        "min_area": options.min_area,
        "images_per_part": options.images_per_part,
    }


class _ErrorWatch:
    def __init__(self, max_share: float, num_images: int) -> None:
        self.max_share, self.num_images = max_share, num_images
        self.num_seen = self.num_errors = 0
        self.first_reason = ""

    def add(self, num_labelled: int, num_errors: int, reasons: Sequence[str]) -> None:
        self.first_reason = self.first_reason or next(iter(reasons), "")
        self.num_seen += num_labelled + num_errors
        self.num_errors += num_errors

    def check(self) -> None:
        enough = self.num_seen >= min(MIN_IMAGES_FOR_SHARE, self.num_images)
        if enough and self.num_errors > self.max_share * self.num_seen:
            raise SkippedShareError(
                f"{self.num_errors} of {self.num_seen} images cannot be read, more than the share of "
                f"{self.max_share:g} that is allowed (--max-error-share): {self.first_reason}; "
                f"all reasons are in {RECORD_FOLDER}/"
            )


def _finish(
    store: PartStore, numbers: Sequence[int], vocabulary: Vocabulary, options: LabelOptions, notice: str
) -> None:
    """errors.parquet, the merged files, the shard set's manifest, and last the manifest of it all."""
    storage = store.storage
    storage.remove_temporary()
    errors: list[dict[str, str]] = []
    shard_files, columns, num_labelled = [], set(), 0
    for number in numbers:
        record = store.read(number)
        num_labelled += len(record["image_ids"])
        errors += record["errors"]
        if record.get("shard") and record["image_ids"]:
            shard_files.append(shard_file_from_record(record["shard"]))
            columns.update(record["columns"])
    storage.write_bytes("errors.parquet", _errors_table(errors))
    for wanted in options.formats:
        if wanted in MERGED:
            merge(storage, wanted, numbers)
    if "webdataset" in options.formats:
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
    summary = {
        "format_version": 1,
        "notice": notice,
        "num_labelled": num_labelled,
        "num_errors": len(errors),
        "num_parts": len(numbers),
        "formats": list(options.formats),
        "vocabulary": [category.name for category in vocabulary.categories],
    }
    storage.write_bytes(MANIFEST_NAME, (json.dumps(summary, indent=1) + "\n").encode())


def _errors_table(errors: list[dict[str, str]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet

    schema = pa.schema({name: pa.string() for name in ("image_id", "file", "reason")})
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(errors, schema=schema), buffer)
    return buffer.getvalue()

"""Masks for a whole corpus of images, each exactly once, whatever dies on the way."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from frozenseg.data import decode_image
from frozenseg.data.files import absolute
from frozenseg.errors import SkippedShareError, UserInputError
from frozenseg.inference.palette import category_colors
from frozenseg.inference.prediction import Prediction
from frozenseg.types import ImageSample, Vocabulary
from frozenseg.vocabulary import load_vocabulary
from pipelines.corpus import ImageReference, find_corpus, read_image_bytes
from pipelines.labeling.finish import finish
from pipelines.labeling.formats import MIRRORED, write_part
from pipelines.labeling.labelled import LabelledImage, PackedMap, mirrored
from pipelines.labeling.options import LabelOptions
from pipelines.labeling.quality import measure_quality, write_quality
from pipelines.labeling.thumbnails import thumbnail
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
from shards import MANIFEST_NAME, image_extension

MIN_IMAGES_FOR_SHARE = 100
"""Before so many images a share of errors says nothing, unless the corpus is smaller."""
_NUM_UNFINISHED = 2
"""Images whose results wait to be made files, while the model works on the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelReport:
    """num_images: of the corpus; num_labelled: by this run; num_errors: images that could not be read, in all runs;
    notice: that weights are random, else empty."""

    num_images: int
    num_labelled: int
    num_errors: int
    notice: str = ""


class LabelActor:
    """Labels the images of one part after the other and writes them. Images are read ahead, and results made into files
    behind, by threads beside the model."""

    def __init__(self, segmenter: SegmenterSource, options: LabelOptions, to: str) -> None:
        self.segmenter = segmenter.build()
        self.vocabulary = load_vocabulary(options.vocabulary)
        self.inference = dataclasses.replace(self.segmenter.options, **options.options)
        self.options = options
        self.filter = options.segment_filter(self.vocabulary)
        self.colors = category_colors(self.vocabulary)
        self.store = PartStore(to)
        # Words that the model doesn't know are no image's fault: they end the run before the first one.
        self.segmenter.model.text(self.vocabulary)

    def __call__(self, part: dict[str, Any]) -> dict[str, Any]:
        references = [
            ImageReference(**{**reference, "place": tuple(reference["place"])}) for reference in part["images"]
        ]
        errors: list[dict[str, str]] = []
        numbered = enumerate(references, part["first"] + 1)
        labelled = list(self._labelled(prefetched(numbered, self._load), errors))
        storage, number, notice = self.store.storage, part["number"], self.segmenter.notice
        kept = write_part(
            storage,
            self.options.formats,
            number,
            labelled,
            self.vocabulary,
            notice,
            self.options.polygon_tolerance,
        )
        write_quality(storage, number, labelled)
        self.store.write(number, {"image_ids": [image.image_id for image in labelled], "errors": errors, **kept})
        reasons = [error["reason"] for error in errors[:1]]
        return {"num_labelled": len(labelled), "num_errors": len(errors), "reasons": reasons}

    def _load(self, item: tuple[int, ImageReference]) -> tuple[bytes, ImageSample]:
        _, reference = item
        data = read_image_bytes(reference)
        if "webdataset" in self.options.formats:
            image_extension(data)
        return data, decode_image(data, reference.image_id, file_name=reference.file_name)

    def _labelled(
        self,
        images: Iterator[tuple[tuple[int, ImageReference], tuple[bytes, ImageSample] | UserInputError]],
        errors: list[dict[str, str]],
    ) -> Iterator[LabelledImage]:
        """The results in order; what cannot be read or segmented goes into `errors`."""
        unfinished: list[Future[LabelledImage]] = []
        with ThreadPoolExecutor(max_workers=1) as finisher:
            for (number, reference), loaded in images:
                try:
                    if isinstance(loaded, UserInputError):
                        raise loaded
                    data, image = loaded
                    prediction = self.segmenter.predict_batch([image], self.vocabulary, self.inference)[0]
                except UserInputError as error:
                    errors.append({"image_id": reference.image_id, "file": reference.file_name, "reason": str(error)})
                    continue
                unfinished.append(finisher.submit(self._finished, number, reference, data, image, prediction))
                if len(unfinished) > _NUM_UNFINISHED:
                    yield unfinished.pop(0).result()
            for future in unfinished:
                yield future.result()

    def _finished(
        self, number: int, reference: ImageReference, data: bytes, image: ImageSample, prediction: Prediction
    ) -> LabelledImage:
        whole = prediction.panoptic()
        result = self.filter.on_segments(whole)
        semantic = None
        if "semantic-png" in self.options.formats:
            labels, scores = prediction.semantic_with_scores()
            semantic = PackedMap.of(self.filter.on_pixels(labels, scores).cpu().numpy())
        return LabelledImage(
            number=number,
            image_id=reference.image_id,
            file_name=reference.file_name,
            address=reference.address if reference.kind == "file" else reference.file_name,
            image_bytes=data,
            size=image.original_size,
            segment_ids=PackedMap.of(result.segment_ids.numpy()),
            segments=result.segments,
            quality=measure_quality(prediction, len(whole.segments) - len(result.segments)),
            semantic=semantic,
            thumbnail=thumbnail(image.image, result, self.colors) if self.options.review else b"",
        )


def part_of(number: int, indices: range, references: Sequence[ImageReference]) -> dict[str, Any]:
    """A part as JSON, for `LabelActor`: its number, the corpus index of its first image, its images."""
    return {"number": number, "first": indices.start, "images": [asdict(references[i]) for i in indices]}


def check(segmenter: SegmenterSource, options: LabelOptions) -> None:
    """What can be known before anything is built or written. Raises UserInputError."""
    segmenter.check()
    options.segment_filter(load_vocabulary(options.vocabulary))


def label(
    segmenter: SegmenterSource,
    images: str | Sequence[ImageReference],
    options: LabelOptions,
    pool: PoolOptions,
    log_path: Path | None = None,
    actor: Callable[..., Callable[[dict[str, Any]], dict[str, Any]]] = LabelActor,
) -> LabelReport:
    """Labels what is not labelled yet, then merges. Interrupted at any moment and called again, it ends with each image
    once: a part counts from the moment its record is written, which is after all its files.

    Args:
        images: what `find_corpus` found, or the address to look at.
        actor: what labels a part; another one simulates.

    Raises:
        UserInputError: no images, a vocabulary that cannot be used, or a folder with labels of other settings.
        SkippedShareError: too many images that cannot be read; what was labelled stays.
    """
    vocabulary = load_vocabulary(options.vocabulary)
    references = find_corpus(images) if isinstance(images, str) else images
    _check_names(references, options)
    to = absolute(options.to)
    store = PartStore(to)
    store.agree_on(_settings(segmenter, references, vocabulary, options))
    ranges = slices(len(references), options.images_per_part)
    done = store.done()
    # What counts is per image, over all runs: the first run's errors are not forgotten by the second.
    progress = StageProgress("label", len(references), log_path=log_path)
    watch = _ErrorWatch(options.max_error_share, len(references))
    for number in sorted(done):
        record = store.read(number)
        watch.add(len(record["image_ids"]), len(record["errors"]), [error["reason"] for error in record["errors"][:1]])
    missing = [number for number in range(len(ranges)) if number not in done]
    # One part at a time is spelt out: a million references as dicts would be the driver's largest possession.
    parts = (part_of(number, ranges[number], references) for number in missing)
    num_labelled = 0
    watch.check()
    arguments = {"segmenter": segmenter, "options": options, "to": to}
    for result in run_parts(actor, arguments, parts, len(missing), pool):
        num_labelled += result["num_labelled"]
        watch.add(result["num_labelled"], result["num_errors"], result["reasons"])
        progress.add(result["num_labelled"] + result["num_errors"], errors=float(watch.num_errors))
        watch.check()
    if missing:
        progress.finish(errors=float(watch.num_errors))
    notice = segmenter.notice()
    if missing or not store.storage.exists(MANIFEST_NAME):
        finish(store, len(ranges), vocabulary, options, notice)
    return LabelReport(
        num_images=len(references), num_labelled=num_labelled, num_errors=watch.num_errors, notice=notice
    )


def _check_names(references: Sequence[ImageReference], options: LabelOptions) -> None:
    """Formats that call their files like the images need names that differ in more than the ending."""
    wanted = sorted(MIRRORED & set(options.formats))
    if not wanted:
        return
    first: dict[str, str] = {}
    for reference in references:
        name = mirrored(reference.file_name, "")
        if first.setdefault(name, reference.file_name) is not reference.file_name:
            raise UserInputError(
                f"formats {', '.join(wanted)}: expected images with names that differ in more than the ending, found "
                f"{first[name]} and {reference.file_name}"
            )


def _settings(
    segmenter: SegmenterSource, references: Sequence[ImageReference], vocabulary: Vocabulary, options: LabelOptions
) -> dict[str, Any]:
    names = hashlib.sha256()
    for reference in references:
        names.update(f"{reference.file_name}\n".encode())
    return {
        "model": segmenter.fingerprint(),
        "vocabulary": vocabulary.content_hash,
        "images": names.hexdigest(),
        "num_images": len(references),
        "formats": sorted(options.formats),
        "options": options.options,
        "min_score": options.min_score,
        "min_area": options.min_area,
        "filters": options.filters,
        "polygon_tolerance": options.polygon_tolerance,
        "review": options.review,
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

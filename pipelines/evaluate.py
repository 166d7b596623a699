"""A model over a data set with truth: PQ, mIoU, AP, proposal recall, seen and unseen categories apart."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from frozenseg.data import decode_annotation, decode_image
from frozenseg.data.dataset import InstanceTruth
from frozenseg.data.files import absolute
from frozenseg.errors import SkippedShareError, UserInputError
from frozenseg.types import EncodedSample, ImageSample, PanopticAnnotation, Vocabulary
from pipelines.evaluation_data import (
    DataSource,
    evaluated_vocabulary,
    identity_of,
    instances_of,
    objects_at,
    task_of,
    vocabulary_of,
)
from pipelines.evaluation_metrics import Metrics, Results
from pipelines.predictions import join_predictions, write_prediction
from pipelines.progress import StageProgress
from pipelines.run_card import card, code_version, without_nan
from pipelines.segmenter_pool import PartStore, PoolOptions, SegmenterSource, prefetched, run_parts, slices


class EvaluateActor:
    """Predicts and counts the images of one part after the other."""

    def __init__(
        self,
        segmenter: SegmenterSource,
        data: DataSource,
        vocabulary: str,
        options: dict[str, Any],
        predictions: bool,
        to: str,
    ) -> None:
        self.segmenter = segmenter.build()
        self.data = data.open()
        self.vocabulary = evaluated_vocabulary(vocabulary_of(self.data), vocabulary)
        self.options = dataclasses.replace(self.segmenter.options, **options)
        self.predictions = predictions
        self.store = PartStore(to)
        # Words that the model doesn't know are no image's fault: they end the run before the first one.
        self.segmenter.model.text(self.vocabulary)

    def __call__(self, part: dict[str, Any]) -> dict[str, Any]:
        start = time.monotonic()
        task = task_of(self.data)
        metrics = Metrics(self.vocabulary, self.segmenter.model.seen(self.vocabulary), task, instances_of(self.data))
        skipped, written = [], []
        for index, loaded in prefetched(part["indices"], self._load):
            if isinstance(loaded, UserInputError):
                skipped.append({"index": index, "reason": str(loaded)})
                continue
            image, truth, objects = loaded
            results = Results(self.segmenter.predict_batch([image], self.vocabulary, self.options)[0])
            metrics.update(results, truth, image.image_id, objects)
            if self.predictions:
                size = image.original_size
                written.append(
                    write_prediction(self.store.storage, results, task, self.vocabulary, image.image_id, size)
                )
        seconds = time.monotonic() - start
        record = {"state": metrics.state(), "skipped": skipped, "seconds": seconds, "predictions": written}
        self.store.write(part["number"], record)
        return {"number": part["number"], "num_images": len(part["indices"]), "num_skipped": len(skipped)}

    def _load(self, index: int) -> tuple[ImageSample, PanopticAnnotation, InstanceTruth | None]:
        sample: EncodedSample = self.data[index]
        image = decode_image(sample.image_bytes, sample.image_id, file_name=sample.file_name)
        truth = decode_annotation(sample)
        if tuple(truth.segment_ids.shape) != image.original_size:
            raise UserInputError(
                f"image {sample.image_id!r}: expected truth of its size {image.original_size}, "
                f"found {tuple(truth.segment_ids.shape)}"
            )
        return image, truth, objects_at(self.data, index)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions:
    """to: folder of the results and of what a rerun goes on from; vocabulary: names by which the model is asked, empty
    for the data set's own; options: of inference, by name, over the model folder's; limit: only the first so many
    images; images_per_part: what is lost at most when an actor dies; predictions: write them as files;
    seed: of the bootstrap."""

    to: str
    vocabulary: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    limit: int | None = None
    images_per_part: int = 16
    max_skipped_share: float = 0.01
    predictions: bool = True
    seed: int = 0


def check(segmenter: SegmenterSource, data: DataSource, options: EvaluateOptions) -> None:
    """What can be known before anything is built or written. Raises UserInputError."""
    segmenter.check()
    evaluated_vocabulary(vocabulary_of(data.open()), options.vocabulary)


def evaluate(
    segmenter: SegmenterSource, data: DataSource, options: EvaluateOptions, pool: PoolOptions
) -> dict[str, Any]:
    """Runs what is missing, merges, and writes metrics.json and card.md into `to`. Returns what metrics.json holds.

    Raises:
        UserInputError: `to` holds results of other settings.
        SkippedShareError: too many samples that cannot be read.
    """
    start = time.monotonic()
    opened = data.open()
    vocabulary = evaluated_vocabulary(vocabulary_of(opened), options.vocabulary)
    num_images = min(len(opened), options.limit or len(opened))
    if num_images == 0:
        raise UserInputError("evaluation: the data set holds no image")
    to = absolute(options.to)
    store = PartStore(to)
    settings = _settings(segmenter, data, vocabulary, options, num_images)
    store.agree_on(settings)
    numbered = list(enumerate(slices(num_images, options.images_per_part)))
    done = store.done()
    parts: list[dict[str, Any]] = [{"number": n, "indices": list(indices)} for n, indices in numbered if n not in done]
    arguments = {
        "segmenter": segmenter,
        "data": data,
        "vocabulary": options.vocabulary,
        "options": inference_options(data, options),
        "predictions": options.predictions,
        "to": to,
    }
    progress = StageProgress("evaluate", sum(len(part["indices"]) for part in parts))
    for result in run_parts(EvaluateActor, arguments, parts, len(parts), pool):
        progress.add(result["num_images"])
    if parts:
        progress.finish()
    store.storage.remove_temporary()
    report = _report(store, [n for n, _ in numbered], segmenter, data, vocabulary, options)
    report["run"] = {**settings, "vocabulary name": vocabulary.name, "code": code_version()}
    report["seconds_of_this_run"] = round(time.monotonic() - start, 2)
    num_skipped = len(report["skipped"])
    if num_skipped > options.max_skipped_share * num_images:
        raise SkippedShareError(
            f"{num_skipped} of {num_images} samples cannot be read, more than the share of "
            f"{options.max_skipped_share:g} that is allowed: {report['skipped'][0]['reason']}"
        )
    store.storage.write_bytes("metrics.json", (json.dumps(without_nan(report), indent=1) + "\n").encode())
    store.storage.write_bytes("card.md", card(report).encode())
    return report


def _settings(
    segmenter: SegmenterSource,
    data: DataSource,
    vocabulary: Vocabulary,
    options: EvaluateOptions,
    num_images: int,
) -> dict[str, Any]:
    return {
        "model": segmenter.fingerprint(),
        "data": hash_of(identity_of(data.open())),
        "vocabulary": vocabulary.content_hash,
        "options": inference_options(data, options),
        "num_images": num_images,
        "images_per_part": options.images_per_part,
        "predictions": options.predictions,
    }


def inference_options(data: DataSource, options: EvaluateOptions) -> dict[str, Any]:
    """What the data set is tested with as published, and what was asked for over it."""
    return {**data.published_options(), **options.options}


def hash_of(value: Any) -> str:
    """sha256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _report(
    store: PartStore,
    numbers: Sequence[int],
    source: SegmenterSource,
    data: DataSource,
    vocabulary: Vocabulary,
    options: EvaluateOptions,
) -> dict[str, Any]:
    opened = data.open()
    spec = source.spec()
    training = spec.training_vocabulary
    seen = vocabulary.seen_mask(training) if training is not None else torch.zeros_like(vocabulary.is_thing)
    task = task_of(opened)
    metrics, skipped, written, seconds = Metrics(vocabulary, seen, task, instances_of(opened)), [], [], 0.0
    for number in numbers:
        record = store.read(number)
        metrics.load_state(record["state"])
        skipped += record["skipped"]
        written += record["predictions"]
        seconds += record["seconds"]
    if options.predictions:
        join_predictions(store.storage, written, task, vocabulary)
    notice = []
    if source.random_encoders or spec.random_parts:
        notice.append("RANDOM WEIGHTS: " + (", ".join(spec.random_parts) or "the encoders"))
    if source.untrained:
        notice.append("UNTRAINED decoder")
    return {
        "model": source.model,
        "notice": "; ".join(notice),
        "num_images": metrics.num_images(),
        "num_seen_categories": int(seen.sum()),
        "num_unseen_categories": int((~seen).sum()),
        "options": inference_options(data, options),
        "intervals": {
            metric: {group: dataclasses.asdict(interval) for group, interval in groups.items()}
            for metric, groups in metrics.intervals(options.seed).items()
        },
        "scores": metrics.scores(),
        "recall_curves": metrics.recall_curves(),
        "skipped": skipped,
        "seconds_in_actors": round(seconds, 2),
    }

"""A model over a data set with truth: PQ, mIoU, AP, proposal recall, seen and unseen categories apart."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from frozenseg.data import CocoPanoptic, decode_annotation, decode_image
from frozenseg.data.files import absolute
from frozenseg.errors import SkippedShareError, UserInputError
from frozenseg.evaluation import (
    AveragePrecision,
    DetectedInstance,
    ImageInstances,
    Interval,
    PanopticQuality,
    ProposalRecall,
    Rle,
    SemanticIoU,
    TrueInstance,
    semantic_labels,
)
from frozenseg.types import EncodedSample, ImageSample, PanopticAnnotation, Vocabulary
from frozenseg.vocabulary import load_vocabulary
from pipelines.progress import StageProgress
from pipelines.segmenter_pool import PartStore, PoolOptions, SegmenterSource, prefetched, run_parts, slices
from shards import MANIFEST_NAME, ShardReader, Storage

Group = Literal["all", "seen", "unseen"]
GROUPS: tuple[Group, ...] = ("all", "seen", "unseen")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """Where samples with truth lie: a shard set, or a COCO panoptic data set by its three paths."""

    shards: str = ""
    json: str = ""
    images: str = ""
    panoptic: str = ""

    @classmethod
    def at(cls, address: str) -> DataSource:
        """A shard set, or a folder with panoptic.json, images/ and panoptic/.

        Raises:
            UserInputError: neither.
        """
        storage = Storage(absolute(address))
        if storage.exists(MANIFEST_NAME):
            return cls(shards=storage.address)
        if storage.exists("panoptic.json"):
            root = storage.address
            return cls(json=f"{root}/panoptic.json", images=f"{root}/images", panoptic=f"{root}/panoptic")
        raise UserInputError(
            f"{address}: expected a shard set (with {MANIFEST_NAME}) or a COCO panoptic folder (with panoptic.json, "
            "images/ and panoptic/), found neither"
        )

    def open(self) -> ShardReader | CocoPanoptic:
        """Raises as the two classes do."""
        return ShardReader(self.shards) if self.shards else CocoPanoptic(self.json, self.images, self.panoptic)


def vocabulary_of(data: ShardReader | CocoPanoptic) -> Vocabulary:
    """The categories that the contiguous ids of its truth mean."""
    return data.manifest.vocabulary if isinstance(data, ShardReader) else data.vocabulary


def evaluated_vocabulary(truth: Vocabulary, wanted: str) -> Vocabulary:
    """The names by which the model is asked: the truth's own, or those of a vocabulary that means the same categories.

    Raises:
        UserInputError: another number of categories, or a category with another id or without a common name.
    """
    if not wanted:
        return truth
    vocabulary = load_vocabulary(wanted)
    if len(vocabulary) != len(truth):
        raise UserInputError(
            f"vocabulary {vocabulary.name!r}: expected the data set's {len(truth)} categories, found {len(vocabulary)}"
        )
    for position, (ours, theirs) in enumerate(zip(truth.categories, vocabulary.categories, strict=True)):
        same_id = ours.dataset_id is not None and ours.dataset_id == theirs.dataset_id
        if not same_id and not set(ours.names) & set(theirs.names):
            raise UserInputError(
                f"vocabulary {vocabulary.name!r}: expected {ours.name!r} as category {position}, found {theirs.name!r}"
            )
    return vocabulary


class Metrics:
    """The four metrics of one evaluation, with a state that JSON can hold."""

    def __init__(self, vocabulary: Vocabulary, seen: Any) -> None:
        self.panoptic = PanopticQuality(vocabulary, seen)
        self.semantic = SemanticIoU(vocabulary, seen)
        self.instances = AveragePrecision(vocabulary, seen)
        self.proposals = ProposalRecall(vocabulary, seen)

    def update(self, prediction: Any, truth: PanopticAnnotation, image_id: str) -> None:
        labels = semantic_labels(truth)
        self.panoptic.update(_on_cpu(prediction.panoptic()), truth, image_id)
        self.semantic.update(prediction.semantic().cpu(), labels, image_id)
        self.instances.update(_on_cpu(prediction.instances()), truth, image_id)
        self.proposals.update(prediction.proposals().cpu(), labels, image_id)

    def state(self) -> dict[str, Any]:
        return {
            "panoptic": self.panoptic.state(),
            "semantic": self.semantic.state(),
            "instances": [dataclasses.asdict(image) for image in self.instances.state()],
            "proposals": self.proposals.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.panoptic.load_state(state["panoptic"])
        self.semantic.load_state(state["semantic"])
        self.instances.load_state([_image_from_json(image) for image in state["instances"]])
        self.proposals.load_state(state["proposals"])

    def intervals(self, seed: int) -> dict[str, dict[str, Interval]]:
        """95 % bootstrap intervals over images: metric -> group -> interval."""
        # Every draw ranks all detections anew: minutes per group on thousands of images.
        num_draws = 200 if len(self.instances.images) <= 1000 else 50
        return {
            "PQ": {group: self.panoptic.interval(group, seed=seed) for group in GROUPS},
            "mIoU": {group: self.semantic.interval(group, seed=seed) for group in GROUPS},
            "AP": {group: self.instances.interval(group, seed=seed, num_resamples=num_draws) for group in GROUPS},
            "proposal recall @ 0.5": {group: self.proposals.interval(group, seed=seed) for group in GROUPS},
        }

    def scores(self) -> dict[str, Any]:
        """Everything the metrics say, as plain data."""
        metrics = (self.panoptic, self.semantic, self.instances, self.proposals)
        names = ("panoptic", "semantic", "instances", "proposals")
        return {name: dataclasses.asdict(metric.compute()) for name, metric in zip(names, metrics, strict=True)}


def _on_cpu(result: Any) -> Any:
    """A result with its tensors on the CPU."""
    changes = {
        f.name: getattr(result, f.name).cpu()
        for f in dataclasses.fields(result)
        if hasattr(getattr(result, f.name), "cpu")
    }
    return dataclasses.replace(result, **changes)


def _image_from_json(record: dict[str, Any]) -> ImageInstances:
    def rle(mask: dict[str, Any] | None) -> Rle | None:
        return None if mask is None else Rle(**{**mask, "size": tuple(mask["size"])})

    def restored(entry: dict[str, Any]) -> dict[str, Any]:
        return {**entry, "mask": rle(entry["mask"]), "box": tuple(entry["box"])}

    return ImageInstances(
        image_id=record["image_id"],
        size=tuple(record["size"]),
        truth=tuple(TrueInstance(**restored(entry)) for entry in record["truth"]),
        detections=tuple(DetectedInstance(**restored(entry)) for entry in record["detections"]),
    )


class EvaluateActor:
    """Predicts and counts the images of one part after the other."""

    def __init__(
        self, segmenter: SegmenterSource, data: DataSource, vocabulary: str, options: dict[str, Any], to: str
    ) -> None:
        self.segmenter = segmenter.build()
        self.data = data.open()
        self.vocabulary = evaluated_vocabulary(vocabulary_of(self.data), vocabulary)
        self.options = dataclasses.replace(self.segmenter.options, **options)
        self.store = PartStore(to)

    def __call__(self, part: dict[str, Any]) -> dict[str, Any]:
        start = time.monotonic()
        metrics = Metrics(self.vocabulary, self.segmenter.model.seen(self.vocabulary))
        skipped = []
        for index, loaded in prefetched(part["indices"], self._load):
            if isinstance(loaded, UserInputError):
                skipped.append({"index": index, "reason": str(loaded)})
                continue
            image, truth = loaded
            prediction = self.segmenter.predict_batch([image], self.vocabulary, self.options)[0]
            metrics.update(prediction, truth, image.image_id)
        seconds = time.monotonic() - start
        self.store.write(part["number"], {"state": metrics.state(), "skipped": skipped, "seconds": seconds})
        return {"number": part["number"], "num_images": len(part["indices"]), "num_skipped": len(skipped)}

    def _load(self, index: int) -> tuple[ImageSample, PanopticAnnotation]:
        sample: EncodedSample = self.data[index]
        image = decode_image(sample.image_bytes, sample.image_id, file_name=sample.file_name)
        truth = decode_annotation(sample)
        if tuple(truth.segment_ids.shape) != image.original_size:
            raise UserInputError(
                f"image {sample.image_id!r}: expected truth of its size {image.original_size}, "
                f"found {tuple(truth.segment_ids.shape)}"
            )
        return image, truth


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions:
    """to: folder of the results and of what a rerun goes on from; vocabulary: names by which the model is asked, empty
    for the data set's own; options: of inference, by name, over the model folder's; limit: only the first so many
    images; images_per_part: what is lost at most when an actor dies; seed: of the bootstrap."""

    to: str
    vocabulary: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    limit: int | None = None
    images_per_part: int = 16
    max_skipped_share: float = 0.01
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
    store.agree_on(_settings(segmenter, opened, data, vocabulary, options, num_images))
    numbered = list(enumerate(slices(num_images, options.images_per_part)))
    done = store.done()
    parts = [{"number": n, "indices": list(indices)} for n, indices in numbered if n not in done]
    arguments = {
        "segmenter": segmenter, "data": data, "vocabulary": options.vocabulary, "options": options.options, "to": to,
    }  # fmt: skip
    progress = StageProgress("evaluate", sum(len(part["indices"]) for part in parts))
    for result in run_parts(EvaluateActor, arguments, parts, len(parts), pool):
        progress.add(result["num_images"])
    if parts:
        progress.finish()
    store.storage.remove_temporary()
    report = _report(store, [n for n, _ in numbered], segmenter, vocabulary, options)
    report["seconds_of_this_run"] = round(time.monotonic() - start, 2)
    num_skipped = len(report["skipped"])
    if num_skipped > options.max_skipped_share * num_images:
        raise SkippedShareError(
            f"{num_skipped} of {num_images} samples cannot be read, more than the share of "
            f"{options.max_skipped_share:g} that is allowed: {report['skipped'][0]['reason']}"
        )
    store.storage.write_bytes("metrics.json", (json.dumps(_without_nan(report), indent=1) + "\n").encode())
    store.storage.write_bytes("card.md", card(report).encode())
    return report


def _settings(
    segmenter: SegmenterSource,
    opened: ShardReader | CocoPanoptic,
    data: DataSource,
    vocabulary: Vocabulary,
    options: EvaluateOptions,
    num_images: int,
) -> dict[str, Any]:
    if isinstance(opened, ShardReader):
        identity: Any = [file.sha256 for file in opened.manifest.files]
    else:
        identity = [data.json, [entry.image_id for entry in opened.entries]]
    return {
        "model": segmenter.fingerprint(),
        "data": hash_of(identity),
        "vocabulary": vocabulary.content_hash,
        "options": options.options,
        "num_images": num_images,
        "images_per_part": options.images_per_part,
    }


def hash_of(value: Any) -> str:
    """sha256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _report(
    store: PartStore,
    numbers: Sequence[int],
    source: SegmenterSource,
    vocabulary: Vocabulary,
    options: EvaluateOptions,
) -> dict[str, Any]:
    spec = source.spec()
    training = spec.training_vocabulary
    seen = vocabulary.seen_mask(training) if training is not None else torch.zeros_like(vocabulary.is_thing)
    metrics, skipped, seconds = Metrics(vocabulary, seen), [], 0.0
    for number in numbers:
        record = store.read(number)
        metrics.load_state(record["state"])
        skipped += record["skipped"]
        seconds += record["seconds"]
    notice = []
    if source.random_encoders or spec.random_parts:
        notice.append("RANDOM WEIGHTS: " + (", ".join(spec.random_parts) or "the encoders"))
    if source.untrained:
        notice.append("UNTRAINED decoder")
    return {
        "model": source.model,
        "notice": "; ".join(notice),
        "num_images": metrics.semantic.compute().num_images,
        "num_seen_categories": int(seen.sum()),
        "num_unseen_categories": int((~seen).sum()),
        "options": options.options,
        "intervals": {
            metric: {group: dataclasses.asdict(interval) for group, interval in groups.items()}
            for metric, groups in metrics.intervals(options.seed).items()
        },
        "scores": metrics.scores(),
        "skipped": skipped,
        "seconds_in_actors": round(seconds, 2),
    }


def _without_nan(value: Any) -> Any:
    """NaN, which JSON has not, as null."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def card(report: dict[str, Any]) -> str:
    """The run as a page of Markdown."""
    lines = [f"# Evaluation of {Path(report['model']).name}", ""]
    if report["notice"]:
        lines += [f"**{report['notice']}**", ""]
    lines += [
        f"{report['num_images']} images, {report['num_seen_categories']} categories seen in training, "
        f"{report['num_unseen_categories']} unseen. In brackets: 95 % bootstrap intervals over images.",
        "",
        "| | all | seen | unseen |",
        "|---|---|---|---|",
    ]
    for metric, groups in report["intervals"].items():
        lines.append(f"| {metric} | " + " | ".join(_interval_text(groups[group]) for group in GROUPS) + " |")
    lines += ["", "| category | PQ | IoU | AP |", "|---|---|---|---|"]
    scores = report["scores"]
    rows = zip(
        scores["panoptic"]["per_category"],
        scores["semantic"]["per_category"],
        scores["instances"]["ap_per_category"],
        strict=True,
    )
    for quality, iou, (_, precision) in rows:
        values = (quality["pq"], iou["iou"], precision)
        lines.append(f"| {quality['name']} | " + " | ".join(map(_percent, values)) + " |")
    if report["skipped"]:
        lines += ["", f"{len(report['skipped'])} samples could not be read:", ""]
        lines += [f"- {skipped['reason']}" for skipped in report["skipped"][:20]]
    return "\n".join(lines) + "\n"


def _percent(value: float) -> str:
    return "–" if value != value else f"{100 * value:.1f}"


def _interval_text(interval: dict[str, float]) -> str:
    text = _percent(interval["value"])
    return text if text == "–" else f"{text} [{_percent(interval['low'])}, {_percent(interval['high'])}]"

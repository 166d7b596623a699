"""What the steps left, read for the report: scores with their intervals, the loss curve, held-out pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from frozenseg.data import decode_annotation, decode_image
from frozenseg.inference.loading import load_segmenter
from frozenseg.inference.palette import VOID_COLOR, category_colors
from frozenseg.inference.segmenter import Segmenter
from frozenseg.types import EncodedSample, SegmentationOutput, Vocabulary
from pipelines.demo.loss_curve import LossPoint
from pipelines.demo.report import Interval, LegendEntry, Picture, ScoreRow
from shards import ShardReader

PICTURE_SIDE = 384
"""Pixels a side of the report's pictures: three times a scene, in whole steps."""


def read_losses(run: Path) -> tuple[LossPoint, ...]:
    """The total loss of every step from the run's metrics.jsonl."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return tuple(LossPoint(step=record["step"], total=record["loss"]) for record in records)


def read_metrics(folder: Path) -> dict[str, Any]:
    """The metrics.json that an evaluation wrote."""
    report: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return report


def score_rows(trained: dict[str, Any], untrained: dict[str, Any]) -> tuple[ScoreRow, ...]:
    """Every metric on seen and unseen categories, in percent, beside the untrained decoder's."""
    return tuple(
        ScoreRow(
            metric=metric,
            split=split,
            trained=_interval(groups[split]),
            untrained=_interval(untrained["intervals"][metric][split]),
        )
        for metric, groups in trained["intervals"].items()
        for split in ("seen", "unseen")
    )


def _interval(values: dict[str, float | None]) -> Interval:
    def percent(name: str) -> float:
        value = values[name]
        return float("nan") if value is None else 100 * value

    return Interval(value=percent("value"), low=percent("low"), high=percent("high"))


def held_out_pictures(model: Path, shards: Path, count: int) -> tuple[Picture, ...]:
    """The first `count` held-out scenes with truth, panoptic and semantic result of the trained model."""
    reader = ShardReader(str(shards))
    vocabulary = reader.manifest.vocabulary
    segmenter = load_segmenter(model, device="cpu")
    return tuple(picture_of(segmenter, reader[index], vocabulary) for index in range(min(count, len(reader))))


def picture_of(segmenter: Segmenter, sample: EncodedSample, vocabulary: Vocabulary) -> Picture:
    """A sample with truth as the report shows it: image, truth, panoptic and semantic result, legend."""
    image = decode_image(sample.image_bytes, sample.image_id)
    truth = decode_annotation(sample)
    prediction = segmenter(image, vocabulary)
    pixels = image.image.permute(1, 2, 0).numpy()
    panoptic = prediction.panoptic()
    true_labels = _categories(truth.segment_ids, [(s.id, s.category_id) for s in truth.segments])
    labels = prediction.semantic().numpy()
    return Picture(
        image_id=sample.image_id,
        image=_png(pixels),
        truth=_png(_painted(pixels, true_labels, truth.segment_ids.numpy(), vocabulary)),
        panoptic=_png(_painted(pixels, _panoptic_categories(panoptic), panoptic.segment_ids.numpy(), vocabulary)),
        semantic=_png(_painted(pixels, labels, labels, vocabulary)),
        legend=_legend(segmenter, vocabulary, [true_labels, _panoptic_categories(panoptic), labels]),
    )


def _categories(segment_ids: torch.Tensor, pairs: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """[h,w] contiguous category of every pixel, -1 for void."""
    labels = np.full(tuple(segment_ids.shape), -1, np.int64)
    for segment_id, category in pairs:
        labels[segment_ids.numpy() == segment_id] = category
    return labels


def _panoptic_categories(result: SegmentationOutput) -> NDArray[np.int64]:
    return _categories(result.segment_ids, [(s.id, s.category_id) for s in result.segments])


def _painted(
    pixels: NDArray[np.uint8], labels: NDArray[np.int64], regions: NDArray[Any], vocabulary: Vocabulary
) -> NDArray[np.uint8]:
    """Categories in their colours over a gray copy of the image, with white lines where `regions` change."""
    colors = np.array([*category_colors(vocabulary), VOID_COLOR], np.float32)
    gray = pixels.mean(axis=-1, keepdims=True).astype(np.float32)
    picture = 0.25 * gray + 0.75 * colors[labels]
    edge = np.zeros(labels.shape, bool)
    edge[:, 1:] |= regions[:, 1:] != regions[:, :-1]
    edge[1:] |= regions[1:] != regions[:-1]
    picture[edge] = 255.0
    painted: NDArray[np.uint8] = picture.round().astype(np.uint8)
    return painted


def _legend(segmenter: Segmenter, vocabulary: Vocabulary, maps: Sequence[NDArray[np.int64]]) -> tuple[LegendEntry, ...]:
    colors = category_colors(vocabulary)
    seen = segmenter.model.seen(vocabulary)
    present = sorted({int(label) for labels in maps for label in np.unique(labels) if label >= 0})
    return tuple(LegendEntry(name=vocabulary.categories[i].name, color=colors[i], seen=bool(seen[i])) for i in present)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """An encoded PNG, enlarged without smoothing so that every pixel can be judged."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    scale = max(1, PICTURE_SIDE // max(image.size))
    buffer = io.BytesIO()
    image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST).save(buffer, format="PNG")
    return buffer.getvalue()

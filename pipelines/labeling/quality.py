"""How sure the model is of each image, statistics per category, and the queue of images that people should look at.

Shape legend: Q queries, M SAM masks, K categories, h w low-resolution logits.
"""

from __future__ import annotations

import heapq
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from frozenseg.inference.prediction import Prediction
from frozenseg.types import Vocabulary
from pipelines.labeling.labelled import ImageQuality, LabelledImage, part_name
from pipelines.labeling.tables import parquet_bytes
from shards import Storage

QUALITY_FOLDER = "quality"
NUM_SCORE_BINS = 10


def measure_quality(prediction: Prediction, num_dropped: int) -> ImageQuality:
    """Of one image. Disagreement is there when the inference options ask for SAM masks beside the decoder's."""
    sam = prediction.sam
    disagreement = None
    if sam is not None and not prediction.options.sam_only:
        disagreement = mask_disagreement(prediction.class_scores, prediction.mask_logits, sam.mask_logits)
    return ImageQuality(
        entropy=round(class_entropy(prediction.class_scores, prediction.mask_logits), 5),
        disagreement=None if disagreement is None else round(disagreement, 5),
        num_dropped=num_dropped,
    )


def class_entropy(class_scores: Tensor, mask_logits: Tensor) -> float:
    """Entropy of the queries' class probabilities, void included, as a share of the largest possible; the mean over
    queries, weighted by (1 - void) x area. 1 where no query shows anything.

    Args:
        class_scores: [Q,K+1] log-probabilities of the ensemble, void last.
        mask_logits: [Q,h,w].
    """
    probabilities = class_scores.float().softmax(dim=-1)
    entropy = torch.special.entr(probabilities).sum(dim=-1) / math.log(probabilities.shape[-1])
    weight = (1 - probabilities[:, -1]) * (mask_logits > 0).flatten(1).float().mean(dim=1)
    total = float(weight.sum())
    return float((entropy * weight).sum()) / total if total > 0 else 1.0


def mask_disagreement(class_scores: Tensor, mask_logits: Tensor, sam_mask_logits: Tensor) -> float:
    """1 - IoU of each decoder mask with the SAM mask that repeats it best; the mean over queries whose best class is
    not void, weighted by probability x area. 1 without any SAM mask, 0 without any such query.

    Args:
        class_scores: [Q,K+1] log-probabilities, void last.
        mask_logits: [Q,h,w]; sam_mask_logits: [M,h',w'], covering the same padded image.
    """
    scores, categories = class_scores.float().softmax(dim=-1).max(dim=-1)
    masks = (mask_logits > 0).flatten(1).float()
    shown = (categories != class_scores.shape[-1] - 1) & (masks.sum(dim=1) > 0)
    masks, scores = masks[shown], scores[shown]
    if len(masks) == 0:
        return 0.0
    if len(sam_mask_logits) == 0:
        return 1.0
    size = [int(side) for side in mask_logits.shape[-2:]]
    resized = F.interpolate(sam_mask_logits[None].float(), size=size, mode="bilinear", align_corners=False)[0]
    sam = (resized > 0).flatten(1).float()
    common = masks @ sam.t()
    union = masks.sum(dim=1)[:, None] + sam.sum(dim=1)[None] - common
    best = (common / union.clamp(min=1.0)).max(dim=1).values
    weight = scores * masks.sum(dim=1)
    return 1.0 - float((best * weight).sum() / weight.sum())


def _schema() -> Any:
    import pyarrow as pa

    segment = pa.struct({"category": pa.int32(), "score": pa.float32(), "area": pa.int64()})
    return pa.schema(
        {
            "number": pa.int64(),
            "image_id": pa.string(),
            "file_name": pa.string(),
            "height": pa.int32(),
            "width": pa.int32(),
            "entropy": pa.float32(),
            "disagreement": pa.float32(),
            "uncertainty": pa.float32(),
            "num_dropped": pa.int32(),
            "segments": pa.list_(segment),
            "thumbnail": pa.binary(),
        }
    )


def write_quality(storage: Storage, part: int, images: Sequence[LabelledImage]) -> None:
    """`quality/part-N.parquet`: one row an image, its segments and its thumbnail within."""
    rows = [
        {
            "number": image.number,
            "image_id": image.image_id,
            "file_name": image.file_name,
            "height": image.size[0],
            "width": image.size[1],
            "entropy": image.quality.entropy,
            "disagreement": image.quality.disagreement,
            "uncertainty": image.quality.uncertainty,
            "num_dropped": image.quality.num_dropped,
            "segments": [{"category": s.category_id, "score": s.score, "area": s.area} for s in image.segments],
            "thumbnail": image.thumbnail,
        }
        for image in images
    ]
    storage.write_bytes(f"{QUALITY_FOLDER}/{part_name(part)}.parquet", parquet_bytes(rows, _schema()))


def read_quality(storage: Storage, part: int, *, thumbnails: bool = False) -> list[dict[str, Any]]:
    """The rows of one part."""
    import pyarrow.parquet

    columns = [name for name in _schema().names if thumbnails or name != "thumbnail"]
    data = storage.read_bytes(f"{QUALITY_FOLDER}/{part_name(part)}.parquet")
    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(io.BytesIO(data), columns=columns).to_pylist()
    return rows


@dataclass(slots=True, kw_only=True)
class CategoryStatistics:
    """Of one category over the corpus. score_bins: segments by score, in tenths."""

    name: str
    num_images: int = 0
    num_segments: int = 0
    num_pixels: int = 0
    score_sum: float = 0.0
    score_bins: list[int] = field(default_factory=lambda: [0] * NUM_SCORE_BINS)

    def add(self, score: float, area: int) -> None:
        self.num_segments += 1
        self.num_pixels += area
        self.score_sum += score
        self.score_bins[min(int(score * NUM_SCORE_BINS), NUM_SCORE_BINS - 1)] += 1

    def record(self, all_pixels: int) -> dict[str, Any]:
        """As JSON, with what follows from the sums; means are null without a segment."""
        found = self.num_segments > 0
        return {
            "name": self.name,
            "num_images": self.num_images,
            "num_segments": self.num_segments,
            "num_pixels": self.num_pixels,
            "share_of_pixels": round(self.num_pixels / all_pixels, 6) if all_pixels else 0.0,
            "mean_score": round(self.score_sum / self.num_segments, 5) if found else None,
            "mean_area": round(self.num_pixels / self.num_segments, 1) if found else None,
            "score_bins": self.score_bins,
        }


@dataclass(slots=True)
class _LeastCertain:
    """The `size` least certain images of those added; the earlier one of equals."""

    size: int
    heap: list[tuple[float, int, Any]] = field(default_factory=list)

    def add(self, uncertainty: float, number: int, value: Any) -> None:
        entry = (uncertainty, -number, value)
        if len(self.heap) < self.size:
            heapq.heappush(self.heap, entry)
        elif self.size:
            heapq.heappushpop(self.heap, entry)

    def values(self) -> list[Any]:
        """Least certain first."""
        return [value for _, _, value in sorted(self.heap, key=lambda entry: entry[:2], reverse=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class QualitySummary:
    """statistics: as JSON; queue: rows of the least certain images, least certain first; shown: numbers of those that
    the review page has room for."""

    statistics: dict[str, Any]
    queue: list[dict[str, Any]]
    shown: frozenset[int]


def summarize(
    storage: Storage, parts: Sequence[int], vocabulary: Vocabulary, queue_length: int, num_shown: int
) -> QualitySummary:
    """One pass over the parts. What is in memory does not grow with the corpus beyond the two lengths."""
    categories = [CategoryStatistics(name=category.name) for category in vocabulary.categories]
    num_images = num_empty = num_dropped = num_pixels = 0
    queue, shown = _LeastCertain(queue_length), _LeastCertain(num_shown)
    for row in _rows(storage, parts):
        num_images += 1
        num_pixels += row["height"] * row["width"]
        num_dropped += row["num_dropped"]
        num_empty += not row["segments"]
        for segment in row["segments"]:
            categories[segment["category"]].add(segment["score"], segment["area"])
        for category in {segment["category"] for segment in row["segments"]}:
            categories[category].num_images += 1
        queue.add(row["uncertainty"], row["number"], row)
        shown.add(row["uncertainty"], row["number"], row["number"])
    statistics = {
        "num_images": num_images,
        "num_images_without_segment": num_empty,
        "num_segments_dropped_by_filters": num_dropped,
        "categories": [category.record(num_pixels) for category in categories],
    }
    return QualitySummary(statistics=statistics, queue=queue.values(), shown=frozenset(shown.values()))


def queue_table(rows: Sequence[dict[str, Any]]) -> bytes:
    """The review queue as Parquet: what `write_quality` wrote, without thumbnails."""
    import pyarrow as pa

    schema = pa.schema([column for column in _schema() if column.name not in ("thumbnail", "segments")])
    return parquet_bytes([{name: row[name] for name in schema.names} for row in rows], schema)


def _rows(storage: Storage, parts: Sequence[int]) -> Iterator[dict[str, Any]]:
    for part in parts:
        yield from read_quality(storage, part)

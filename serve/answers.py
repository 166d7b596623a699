"""Predictions -> what a client gets: segments with run-length masks, label maps, overlays, zips.

Shape legend: h w pixels of the client's image, N segments.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from frozenseg.inference.prediction import Prediction
from frozenseg.types import Size, Vocabulary
from serve.schema import MaskOut, SegmentOptions, SegmentOut, SegmentResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSegment:
    """A segment before it is put into words. category_id is None for a class-agnostic proposal."""

    id: int
    category_id: int | None
    score: float
    mask: NDArray[np.bool_]


def find_segments(prediction: Prediction, options: SegmentOptions) -> list[FoundSegment]:
    """The segments of the task, best first for instances and proposals, in id order otherwise; masks [h,w] bool."""
    if options.task == "panoptic":
        return _panoptic(prediction, options.min_score)
    if options.task == "semantic":
        return _semantic(prediction, options.min_score)
    if options.task == "instance":
        found = prediction.instances(options.min_score)
        count = min(len(found.scores), options.top_k)
        return [
            FoundSegment(
                id=i + 1,
                category_id=int(found.category_ids[i]),
                score=float(found.scores[i]),
                mask=found.masks[i].cpu().numpy(),
            )
            for i in range(count)
            if bool(found.masks[i].any())
        ]
    return _proposals(prediction, options)


def _panoptic(prediction: Prediction, min_score: float) -> list[FoundSegment]:
    result = prediction.panoptic(min_score)
    ids = result.segment_ids.cpu().numpy()
    return [FoundSegment(id=s.id, category_id=s.category_id, score=s.score, mask=ids == s.id) for s in result.segments]


def _semantic(prediction: Prediction, min_score: float) -> list[FoundSegment]:
    """One segment per category present; its score is the mean over its pixels of the best query's class probability."""
    labels = prediction.semantic().cpu().numpy()
    best = prediction.class_scores.float().softmax(dim=-1)[:, :-1].amax(dim=0).cpu()
    found = []
    for category in np.unique(labels):
        score = float(best[int(category)])
        if score >= min_score:
            mask = labels == category
            found.append(FoundSegment(id=int(category) + 1, category_id=int(category), score=score, mask=mask))
    return found


def _proposals(prediction: Prediction, options: SegmentOptions) -> list[FoundSegment]:
    """Class-agnostic masks by how sure the decoder is that they are anything at all (1 - void)."""
    masks = prediction.proposals().cpu()
    objectness = 1.0 - prediction.class_scores.float().softmax(dim=-1)[:, -1].cpu()
    # SAM's masks stand last and carry no void score; they follow the decoder's own.
    scores = torch.cat([objectness, torch.zeros(len(masks) - len(objectness))])
    order = [int(i) for i in scores.argsort(descending=True, stable=True) if bool(masks[i].any())]
    kept = [i for i in order if float(scores[i]) >= options.min_score][: options.top_k]
    return [
        FoundSegment(id=rank + 1, category_id=None, score=float(scores[i]), mask=masks[i].numpy())
        for rank, i in enumerate(kept)
    ]


def describe_segment(segment: FoundSegment, vocabulary: Vocabulary) -> SegmentOut:
    """A segment in the API's words."""
    encoded = coco_mask.encode(np.asfortranarray(segment.mask.astype(np.uint8)))
    x, y, width, height = (round(float(v)) for v in coco_mask.toBbox(encoded))
    category = None if segment.category_id is None else vocabulary.categories[segment.category_id]
    return SegmentOut(
        id=segment.id,
        category_id=segment.category_id,
        category=None if category is None else category.name,
        is_thing=None if category is None else category.is_thing,
        score=round(min(max(segment.score, 0.0), 1.0), 6),
        area=int(segment.mask.sum()),
        bbox=(x, y, width, height),
        mask=MaskOut(size=(segment.mask.shape[0], segment.mask.shape[1]), counts=encoded["counts"].decode("ascii")),
    )


def label_map(segments: Sequence[SegmentOut], size: Size) -> NDArray[np.int32]:
    """[h,w] segment ids, 0 where there is none; where segments overlap, the first in the list is on top."""
    ids = np.zeros(size, np.int32)
    for segment in reversed(segments):
        mask = coco_mask.decode({"size": list(segment.mask.size), "counts": segment.mask.counts.encode("ascii")})
        ids[mask.astype(bool)] = segment.id
    return ids


def label_png(ids: NDArray[np.int32]) -> bytes:
    """PNG in COCO panoptic's colours: id = R + 256 G + 65536 B."""
    rgb = np.stack([ids & 255, (ids >> 8) & 255, (ids >> 16) & 255], axis=-1).astype(np.uint8)
    return png_bytes(Image.fromarray(rgb))


def png_bytes(image: Image.Image) -> bytes:
    """A picture as an encoded PNG."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def zip_bytes(response: SegmentResponse, labels: bytes, overlay: bytes) -> bytes:
    """Everything in one file: segments.json, segments.png (ids), overlay.png."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("segments.json", json.dumps(response.model_dump(), indent=1))
        archive.writestr("segments.png", labels)
        archive.writestr("overlay.png", overlay)
    return buffer.getvalue()

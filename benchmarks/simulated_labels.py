"""Encoders that sleep, and labels that are invented, for measuring what labeling itself costs."""

from __future__ import annotations

import io
import time
from typing import Any

import numpy as np
from PIL import Image

from frozenseg.types import Segment
from frozenseg.vocabulary import load_vocabulary
from pipelines.labeling.formats import write_part
from pipelines.labeling.labelled import ImageQuality, LabelledImage, PackedMap
from pipelines.labeling.options import LabelOptions
from pipelines.labeling.quality import write_quality
from pipelines.segmenter_pool import PartStore, SegmenterSource

_SIZE = (8, 8)


class SleepingActor:
    """Sleeps for as long as a part takes, and writes nothing: what is left is the dealing out of parts."""

    def __init__(self, seconds_per_part: float) -> None:
        self.seconds_per_part = seconds_per_part

    def __call__(self, part: dict[str, Any]) -> dict[str, Any]:
        start = time.time()
        time.sleep(self.seconds_per_part)
        return {"number": part["number"], "start": start, "end": time.time()}


class WritingActor:
    """Writes a part as the real actor does, but for PNGs, with invented segments and without looking at an image."""

    def __init__(self, segmenter: SegmenterSource, options: LabelOptions, to: str) -> None:
        self.notice = segmenter.notice()
        self.vocabulary = load_vocabulary(options.vocabulary)
        self.options, self.store = options, PartStore(to)
        ids = np.zeros(_SIZE, dtype=np.int32)
        ids[:4], ids[4:, 4:] = 1, 2
        self.ids = PackedMap.of(ids)
        self.segments = (
            Segment(id=1, category_id=0, is_thing=True, score=0.75, area=32),
            Segment(id=2, category_id=1, is_thing=True, score=0.5, area=16),
        )
        buffer = io.BytesIO()
        Image.new("RGB", (96, 72), (90, 120, 60)).save(buffer, "WEBP")
        self.thumbnail = buffer.getvalue()

    def __call__(self, part: dict[str, Any]) -> dict[str, Any]:
        images = [
            LabelledImage(
                number=number,
                image_id=reference["image_id"],
                file_name=reference["file_name"],
                address=reference["address"],
                image_bytes=b"",
                size=_SIZE,
                segment_ids=self.ids,
                segments=self.segments,
                quality=ImageQuality(entropy=(number * 0.6180339887) % 1, disagreement=None, num_dropped=0),
                thumbnail=self.thumbnail,
            )
            for number, reference in enumerate(part["images"], part["first"] + 1)
        ]
        storage, number = self.store.storage, part["number"]
        write_part(storage, self.options.formats, number, images, self.vocabulary, self.notice)
        write_quality(storage, number, images)
        self.store.write(number, {"image_ids": [image.image_id for image in images], "errors": []})
        return {"num_labelled": len(images), "num_errors": 0, "reasons": []}

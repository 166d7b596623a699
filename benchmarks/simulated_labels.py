"""Encoders that sleep, and labels that are invented, for measuring what labeling itself costs."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import numpy as np
from PIL import Image

from frozenseg.inference.files import coco_categories
from frozenseg.types import Segment
from frozenseg.vocabulary import load_vocabulary
from pipelines.labeling.labelled import ImageQuality, LabelledImage, PackedMap, part_name
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
    """Writes what the driver reads in the end, a part's COCO JSON, quality and record, with invented segments; no image
    is looked at and no PNG written."""

    def __init__(self, segmenter: SegmenterSource, options: LabelOptions, to: str) -> None:
        self.info = {"description": "invented", "notice": segmenter.notice()}
        self.categories = coco_categories(load_vocabulary(options.vocabulary))
        self.store = PartStore(to)
        self.segments = (
            Segment(id=1, category_id=0, is_thing=True, score=0.75, area=32),
            Segment(id=2, category_id=1, is_thing=True, score=0.5, area=16),
        )
        self.segment_ids = PackedMap.of(np.zeros(_SIZE, dtype=np.int32))
        buffer = io.BytesIO()
        Image.new("RGB", (96, 72), (90, 120, 60)).save(buffer, "WEBP")
        self.thumbnail = buffer.getvalue()

    def __call__(self, part: dict[str, Any]) -> dict[str, Any]:
        storage, number = self.store.storage, part["number"]
        images = [self._image(n, reference) for n, reference in enumerate(part["images"], part["first"] + 1)]
        content = {
            "info": self.info,
            "images": [{"id": i.number, "file_name": i.file_name, "height": 480, "width": 640} for i in images],
            "annotations": [
                {
                    "image_id": i.number,
                    "file_name": f"{part_name(number)}/{i.image_id}.png",
                    "segments_info": [
                        {
                            "id": s.id,
                            "category_id": 1,
                            "iscrowd": 0,
                            "area": s.area,
                            "bbox": [0, 0, 8, 8],
                            "score": s.score,
                        }
                        for s in i.segments
                    ],
                }
                for i in images
            ],
            "categories": self.categories,
        }
        storage.write_bytes(f"coco-panoptic/{part_name(number)}.json", json.dumps(content).encode())
        write_quality(storage, number, images)
        self.store.write(number, {"image_ids": [image.image_id for image in images], "errors": []})
        return {"num_labelled": len(images), "num_errors": 0, "reasons": []}

    def _image(self, number: int, reference: dict[str, Any]) -> LabelledImage:
        return LabelledImage(
            number=number,
            image_id=reference["image_id"],
            file_name=reference["file_name"],
            address=reference["address"],
            image_bytes=b"",
            size=_SIZE,
            segment_ids=self.segment_ids,
            segments=self.segments,
            quality=ImageQuality(entropy=(number * 0.6180339887) % 1, disagreement=None, num_dropped=0),
            thumbnail=self.thumbnail,
        )

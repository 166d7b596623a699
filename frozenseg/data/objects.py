"""Panoptic truth seen as instances, and instances painted into a panoptic map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from frozenseg.data.dataset import InstanceTruth, TrueInstance
from frozenseg.data.rle import area_of, box_of, decode_mask, encode_mask
from frozenseg.types import PanopticAnnotation, Size, TruthSegment, Vocabulary


def objects_of(annotation: PanopticAnnotation, image_id: str) -> InstanceTruth:
    """The things of a panoptic annotation; an object's area is its number of pixels."""
    objects = []
    for segment in annotation.segments:
        if segment.is_thing:
            rle = encode_mask(annotation.segment_ids == segment.id)
            objects.append(
                TrueInstance(
                    category_id=segment.category_id,
                    mask=rle,
                    box=box_of(rle),
                    area=area_of(rle),
                    is_crowd=segment.is_crowd,
                )
            )
    height, width = annotation.segment_ids.shape
    return InstanceTruth(image_id=image_id, size=(int(height), int(width)), objects=tuple(objects))


def paint(
    objects: Sequence[TrueInstance], size: Size, vocabulary: Vocabulary
) -> tuple[NDArray[np.int32], tuple[TruthSegment, ...]]:
    """A panoptic map [h,w] of objects that may overlap, and its segments: crowds lie below objects and large objects
    below small ones, so that what is in front of something is rarely lost. An object that is wholly covered has no
    segment. Segment ids are positions in `objects` plus one."""
    ids = np.zeros(size, dtype=np.int32)
    for position in sorted(range(len(objects)), key=lambda n: (not objects[n].is_crowd, -objects[n].area)):
        mask = objects[position].mask
        if mask is not None:
            ids[decode_mask(mask)] = position + 1
    areas = np.bincount(ids.reshape(-1), minlength=len(objects) + 1)
    segments = tuple(
        TruthSegment(
            id=position + 1,
            category_id=one.category_id,
            is_thing=vocabulary.categories[one.category_id].is_thing,
            is_crowd=one.is_crowd,
            area=int(areas[position + 1]),
        )
        for position, one in enumerate(objects)
        if areas[position + 1]
    )
    return ids, segments

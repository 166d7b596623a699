"""Truth of one sample: the panoptic PNG decoded and held against what the JSON says of it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from frozenseg.data.panoptic_png import MAX_SEGMENT_ID, decode_id_map, positions, runs
from frozenseg.errors import UserInputError
from frozenseg.types import EncodedSample, PanopticAnnotation


def decode_annotation(sample: EncodedSample, *, check_areas: bool = False) -> PanopticAnnotation:
    """Decodes the panoptic PNG of `sample`; a sample without truth gives an all-void map of no pixels.

    Args:
        check_areas: also compare the pixels of each segment with the area its JSON states (0 = not stated).

    Returns:
        segment_ids [h,w] int32 (0 = void) and the segments.

    Raises:
        UserInputError: the ids in the PNG aren't those of the JSON, an id occurs twice, or an area differs.
    """
    name = f"annotation of image {sample.image_id!r}" + (f" ({sample.file_name})" if sample.file_name else "")
    if not sample.panoptic_png:
        if sample.segments:
            raise UserInputError(f"{name}: expected a panoptic PNG for its {len(sample.segments)} segments, found none")
        return PanopticAnnotation(segment_ids=torch.zeros((0, 0), dtype=torch.int32), segments=())
    id_map = decode_id_map(sample.panoptic_png, name)
    starts, lengths = runs(id_map)
    of_run = id_map.reshape(-1)[starts]
    in_json = {segment.id for segment in sample.segments}
    if len(in_json) != len(sample.segments):
        raise UserInputError(f"{name}: expected segment ids that are unique, found one of them twice")
    if not _holds_exactly(of_run, in_json):
        in_png = set(of_run.tolist()) - {0}
        only_png, only_json = sorted(in_png - in_json)[:5], sorted(in_json - in_png)[:5]
        raise UserInputError(
            f"{name}: expected the same segment ids in PNG and JSON, found only in the PNG {only_png}, "
            f"only in the JSON {only_json}"
        )
    if check_areas:
        ids, index = np.unique(of_run, return_inverse=True)
        counted = dict(zip(ids.tolist(), np.bincount(index, weights=lengths).astype(np.int64).tolist(), strict=True))
        for segment in sample.segments:
            if segment.area not in (0, counted[segment.id]):
                raise UserInputError(
                    f"{name}: segment {segment.id}: expected area {segment.area}, found {counted[segment.id]} pixels"
                )
    return PanopticAnnotation(segment_ids=torch.from_numpy(id_map), segments=sample.segments)


def _holds_exactly(values: NDArray[np.int32], ids: set[int]) -> bool:
    """Whether `values` are all of `ids` and none but them and 0 (void)."""
    if not all(0 < number <= MAX_SEGMENT_ID for number in ids):
        return False
    known = np.array([0, *ids], dtype=np.int32)
    found = positions(values, known)
    counts = np.bincount(found, minlength=len(known))
    return bool((known[found] == values).all() and counts[1:].all())

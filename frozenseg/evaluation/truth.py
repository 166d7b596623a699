"""What the annotation of an image says to each kind of metric."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from frozenseg.data.labels import IGNORED
from frozenseg.data.panoptic_png import runs
from frozenseg.types import PanopticAnnotation


def semantic_labels(annotation: PanopticAnnotation) -> NDArray[np.int32]:
    """[h,w] contiguous category of each pixel, crowds included; void is `IGNORED`."""
    starts, lengths = runs(annotation.segment_ids.numpy())
    ids = np.array([0, *(s.id for s in annotation.segments)], dtype=np.int64)
    categories = np.array([IGNORED, *(s.category_id for s in annotation.segments)], dtype=np.int32)
    order = np.argsort(ids, kind="stable")
    values = annotation.segment_ids.numpy().reshape(-1)[starts]
    labels = categories[order[np.searchsorted(ids[order], values)]]
    return np.repeat(labels, lengths).reshape(annotation.segment_ids.shape)

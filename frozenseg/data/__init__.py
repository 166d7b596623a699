"""Data sets from their release layout on disk, decoding, augmentation and batches."""

from frozenseg.data.annotations import decode_annotation
from frozenseg.data.augment import Jitter, JitterConfig, JitterPlan
from frozenseg.data.coco_panoptic import CocoPanoptic, PanopticEntry
from frozenseg.data.collate import collate
from frozenseg.data.images import DEFAULT_MAX_PIXELS, decode_image
from frozenseg.data.panoptic_png import decode_id_map, encode_id_map
from frozenseg.data.resize import resize_for_test, size_for_test

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "CocoPanoptic",
    "Jitter",
    "JitterConfig",
    "JitterPlan",
    "PanopticEntry",
    "collate",
    "decode_annotation",
    "decode_id_map",
    "decode_image",
    "encode_id_map",
    "resize_for_test",
    "size_for_test",
]

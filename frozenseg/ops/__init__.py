"""Small numerical building blocks without parameters."""

from frozenseg.ops.class_logits import class_logits
from frozenseg.ops.deformable_attention import multi_scale_deformable_attention, read_flat_memory
from frozenseg.ops.mask_product import mask_product
from frozenseg.ops.pooling import pool_masks
from frozenseg.ops.position import sine_position_embedding
from frozenseg.ops.sampling import resize_bilinear, sample_points

__all__ = [
    "class_logits",
    "mask_product",
    "multi_scale_deformable_attention",
    "pool_masks",
    "read_flat_memory",
    "resize_bilinear",
    "sample_points",
    "sine_position_embedding",
]

"""Encoders meet the rest of the library here: a batch of images becomes EncoderFeatures."""

from __future__ import annotations

import hashlib

import torch

from frozenseg.encoders.base import ClipEncoder, SamEncoder
from frozenseg.types import Batch, EncoderFeatures, FeatureKey


def feature_key(clip: ClipEncoder, sam: SamEncoder | None, dtype: torch.dtype) -> FeatureKey:
    """Names what makes a set of features: architectures, weights and the dtype they were computed in."""
    hashes = clip.weights_hash + (sam.weights_hash if sam is not None else "")
    return FeatureKey(
        clip=clip.architecture,
        sam=sam.architecture if sam is not None else "",
        weights_hash=hashlib.sha256(hashes.encode()).hexdigest(),
        dtype=str(dtype).removeprefix("torch."),
    )


@torch.no_grad()
def encode_batch(clip: ClipEncoder, sam: SamEncoder | None, batch: Batch) -> EncoderFeatures:
    """Runs the frozen encoders on a batch, on the device that they live on.

    Args:
        clip: the CLIP encoder.
        sam: the SAM encoder, or None for a model without SAM; its map is then [B,0,0,0].
        batch: images [B,3,H,W] uint8, H and W multiples of 32.
    """
    features = clip.encode_image(batch.images, batch.valid_sizes)
    if sam is not None:
        sam_map = sam.encode_image(batch.images, batch.valid_sizes).to(features.dense.dtype)
    else:
        sam_map = features.dense.new_zeros((features.dense.shape[0], 0, 0, 0))
    return EncoderFeatures(
        clip_pyramid=features.pyramid,
        clip_dense=features.dense,
        sam=sam_map,
        source=feature_key(clip, sam, features.dense.dtype),
    )

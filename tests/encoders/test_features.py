"""Batches to EncoderFeatures."""

from __future__ import annotations

import pytest
import torch

from frozenseg.encoders import OpenClipEncoder, SamImageEncoder, encode_batch
from frozenseg.errors import UserInputError
from frozenseg.types import Batch, stack_features


def test_all_parts_come_out(clip: OpenClipEncoder, sam: SamImageEncoder, batch: Batch) -> None:
    features = encode_batch(clip, sam, batch)
    assert features.padded_size == (96, 160)
    assert features.batch_size == 2
    assert tuple(features.sam.shape[:2]) == (2, 32)
    assert (features.source.clip, features.source.sam) == (clip.architecture, sam.architecture)
    assert features.source.dtype == "float32"


def test_without_sam_its_map_is_empty(clip: OpenClipEncoder, batch: Batch) -> None:
    features = encode_batch(clip, None, batch)
    assert tuple(features.sam.shape) == (2, 0, 0, 0)
    assert features.source.sam == ""


def test_the_key_tells_weights_and_dtype_apart(clip: OpenClipEncoder, sam: SamImageEncoder, batch: Batch) -> None:
    full = encode_batch(clip, sam, batch)
    assert encode_batch(clip, sam, batch).source == full.source
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = encode_batch(clip, sam, batch)
    assert low.source.dtype == "bfloat16"
    assert {low.sam.dtype, low.clip_dense.dtype} == {torch.bfloat16}
    with torch.no_grad():
        next(sam.parameters()).add_(1.0)
    other = encode_batch(clip, sam, batch)
    assert other.source.weights_hash != full.source.weights_hash
    with pytest.raises(UserInputError, match="different encoders cannot be mixed"):
        stack_features([full, other])

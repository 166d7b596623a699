"""The encoders on a GPU give what they give on the CPU."""

from __future__ import annotations

import pytest
import torch

from frozenseg.classify import embed_names
from frozenseg.encoders import OpenClipEncoder, SamImageEncoder, encode_batch
from frozenseg.types import Batch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; torch finds none"),
]


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float().cpu() - expected).abs().mean() / expected.abs().mean())


def test_features_text_and_pooling_agree(clip: OpenClipEncoder, sam: SamImageEncoder, batch: Batch) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    logits = torch.randn(2, 6, 24, 40, generator=torch.Generator().manual_seed(0))
    logits[:, 2] = -1.0
    expected, digest = encode_batch(clip, sam, batch), clip.weights_hash
    expected_pooled = clip.pool_masks(expected.clip_dense, logits).embeddings
    expected_text = embed_names(clip, ["red circle", "blue sky"], ["a photo of the {}"])
    clip.cuda()
    sam.cuda()
    found = encode_batch(clip, sam, batch)
    assert found.source == expected.source
    assert clip.weights_hash == digest
    assert difference(found.clip_dense, expected.clip_dense) < 1e-4
    assert difference(found.sam, expected.sam) < 1e-4
    assert difference(clip.pool_masks(found.clip_dense, logits.cuda()).embeddings, expected_pooled) < 1e-3
    assert difference(embed_names(clip, ["red circle", "blue sky"], ["a photo of the {}"]), expected_text) < 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_near(clip: OpenClipEncoder, sam: SamImageEncoder, batch: Batch, dtype: torch.dtype) -> None:
    expected = encode_batch(clip, sam, batch)
    with torch.autocast("cuda", dtype=dtype):
        found = encode_batch(clip.cuda(), sam.cuda(), batch)
    assert found.clip_dense.dtype == dtype
    assert difference(found.clip_dense, expected.clip_dense) < 0.05
    assert difference(found.sam, expected.sam) < 0.05

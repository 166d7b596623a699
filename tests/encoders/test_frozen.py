"""Frozen means frozen, and the digest notices every change."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from frozenseg.encoders import OpenClipEncoder, SamImageEncoder, encode_batch
from frozenseg.types import Batch
from tests.encoders.conftest import CONVNEXT, RESNET, SMALL_SAM, SMALL_TINY_VIT, make_clip, make_sam


class Owner(nn.Module):
    """A model that trains a head on frozen features."""

    def __init__(self, clip: OpenClipEncoder, sam: SamImageEncoder) -> None:
        super().__init__()
        self.clip, self.sam = clip, sam
        self.head = nn.Linear(clip.pyramid_channels[3] + sam.out_channels, 1)


@pytest.mark.parametrize(
    ("clip_config", "sam_config"), [(CONVNEXT, SMALL_SAM), (RESNET, SMALL_TINY_VIT)], ids=["convnext", "resnet"]
)
def test_nothing_moves_in_training(clip_config: object, sam_config: object, batch: Batch) -> None:
    model = Owner(make_clip(clip_config), make_sam(sam_config))  # type: ignore[arg-type]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.5)
    for _ in range(2):
        features = encode_batch(model.clip, model.sam, batch)
        vectors = torch.cat([features.clip_dense.mean((2, 3)), features.sam.mean((2, 3))], dim=1)
        optimizer.zero_grad()
        model.head(vectors).sum().backward()
        optimizer.step()
    after = model.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed == {"head.weight", "head.bias"}
    assert model.training
    assert not any(m.training for m in (*model.clip.modules(), *model.sam.modules()))


def test_no_parameter_asks_for_a_gradient(clip: OpenClipEncoder, sam: SamImageEncoder, batch: Batch) -> None:
    assert not any(p.requires_grad for p in (*clip.parameters(), *sam.parameters()))
    clip.requires_grad_(True)
    sam.requires_grad_(True)
    features = encode_batch(clip, sam, batch)
    assert not features.clip_dense.requires_grad
    assert not features.sam.requires_grad


def test_the_digest_follows_the_weights(clip: OpenClipEncoder) -> None:
    first = clip.weights_hash
    assert len(first) == 64
    assert clip.weights_hash == first
    assert copy.deepcopy(clip).weights_hash == first
    with torch.no_grad():
        clip.model.logit_scale.add_(1e-3)
    second = clip.weights_hash
    assert second != first
    clip.load_state_dict({k: v.clone() for k, v in clip.state_dict().items()})
    assert clip.weights_hash == second
    clip.model.visual.register_buffer("extra", torch.zeros(3))
    assert clip.weights_hash != second
    assert clip.to(torch.bfloat16).weights_hash not in (first, second)


def test_the_digest_is_computed_once(clip: OpenClipEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    from frozenseg.encoders import frozen

    calls: list[nn.Module] = []
    real = frozen.tensors_hash

    def counting(module: nn.Module) -> str:
        calls.append(module)
        return real(module)

    monkeypatch.setattr(frozen, "tensors_hash", counting)
    assert len({clip.weights_hash for _ in range(5)}) == 1
    assert len(calls) == 1


def test_a_batch_norm_statistic_counts(batch: Batch) -> None:
    clip = make_clip(RESNET)
    first = clip.weights_hash
    clip.model.visual.bn1.running_mean.add_(1.0)
    assert clip.weights_hash != first


def test_encoders_built_in_inference_mode_have_a_digest() -> None:
    torch.manual_seed(0)
    with torch.inference_mode():
        inside = make_clip(RESNET).weights_hash
    torch.manual_seed(0)
    assert inside == make_clip(RESNET).weights_hash

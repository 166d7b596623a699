"""Published key names: complete, one to one, same shapes; and the published models' parameter counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from frozenseg.decoder import DecoderConfig, MaskDecoder, decoder_key, published_key

CHANNELS = {"convnext_large": (192, 384, 768, 1536), "rn50x64": (512, 1024, 2048, 4096)}
WIDTH = {"convnext_large": 768, "rn50x64": 1024}
COUNTS = {
    ("frozenseg", "convnext_large"): 26_497_153,
    ("frozenseg", "rn50x64"): 27_792_001,
    ("fcclip", "convnext_large"): 20_721_601,
    ("fcclip", "rn50x64"): 22_016_449,
}


def build(model: str, clip: str, **changes) -> MaskDecoder:
    if model == "fcclip":
        changes |= {"query_injector_layers": (), "feature_injector_layers": (), "sam_channels": 0}
    with torch.device("meta"):
        return MaskDecoder(DecoderConfig(clip_channels=CHANNELS[clip], embedding_dim=WIDTH[clip], **changes))


@pytest.mark.parametrize(("model", "clip"), COUNTS)
@pytest.mark.parametrize("memory", ["published", "own_level"])
def test_trainable_parameters(model: str, clip: str, memory) -> None:
    decoder = build(model, clip, sam_memory=memory)
    assert sum(p.numel() for p in decoder.parameters() if p.requires_grad) == COUNTS[model, clip]


@pytest.mark.shared
@pytest.mark.parametrize(("model", "clip"), COUNTS)
def test_names_cover_the_published_layout(model: str, clip: str, shared_dir: Path) -> None:
    layout = json.loads((shared_dir / "parity" / f"f_layout_{model}_{clip}.json").read_text())["keys"]
    state = build(model, clip).state_dict()
    mapped = {key: ours for key in layout if (ours := decoder_key(key)) is not None}
    assert {key for key in layout if key.startswith(("sem_seg_head.", "void_embedding."))} == set(mapped)
    assert sorted(mapped.values()) == sorted(state)
    for key, ours in mapped.items():
        assert tuple(layout[key]["shape"]) == tuple(state[ours].shape), key


@pytest.mark.parametrize("model", ["frozenseg", "fcclip"])
def test_names_go_there_and_back(model: str) -> None:
    keys = list(build(model, "convnext_large").state_dict())
    there = [published_key(key) for key in keys]
    assert len(set(there)) == len(keys)
    assert [decoder_key(key) for key in there] == keys


@pytest.mark.parametrize(
    "key",
    [
        "backbone.clip_model.logit_scale",
        "sam.image_encoder.pos_embed",
        "criterion.empty_weight",
        "sem_seg_head.predictor.unknown.weight",
        "sem_seg_head.pixel_decoder.layer_1.weight.more",
        "transformer.level_embedding.weight",
    ],
)
def test_other_keys_are_none(key: str) -> None:
    assert decoder_key(key) is None


def test_our_own_step_has_no_published_name() -> None:
    assert published_key("transformer.heads.sam_projection.weight") is None

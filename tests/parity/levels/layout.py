"""f_layout_*: our decoder's tensors against the released state dicts, one to one, with exact counts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from frozenseg.decoder import DecoderConfig, MaskDecoder, decoder_key
from frozenseg.encoders import build_clip, build_sam, sam_preset
from frozenseg.model.convert import DROPPED, infer_decoder, sort_keys
from frozenseg.model.official import OFFICIAL_WEIGHTS
from tests.parity.result import CaseResult


def check(path: Path) -> list[CaseResult]:
    """Every difference counts as one; none is allowed. No tensor of a released size is ever allocated."""
    layout = json.loads(path.read_text())
    keys: dict[str, Any] = layout["keys"]
    with torch.device("meta"):
        tensors = {key: torch.empty(entry["shape"]) for key, entry in keys.items()}
        parts = sort_keys(tensors, path.name)
        config = infer_decoder(parts.decoder)
        decoder = MaskDecoder(config)
    own = {name: tuple(tensor.shape) for name, tensor in decoder.state_dict().items()}
    published = {name: tuple(tensor.shape) for name, tensor in parts.decoder.items()}
    trainable = sum(parameter.numel() for parameter in decoder.parameters() if parameter.requires_grad)
    expected = {decoder_key(key): entry["trainable"] for key, entry in keys.items() if decoder_key(key)}
    asked = {name: parameter.requires_grad for name, parameter in decoder.named_parameters()}
    counts = layout["counts"]
    mapped = len(parts.decoder) + len(parts.clip) + len(parts.sam) + len(DROPPED & keys.keys())
    clip, sam = _encoder_differences(parts.clip, parts.sam, config)
    frozen = sum(math.prod(e["shape"]) for e in keys.values() if e["kind"] == "param" and not e["trainable"])
    name = str(layout["model"])
    return [
        _exact(f"{name} decoder tensors and shapes", len(own.items() ^ published.items())),
        _exact(f"{name} trainable parameters", trainable - counts["trainable"]),
        _exact(f"{name} trainable tensors", len(asked.items() ^ expected.items())),
        _exact(f"{name} keys mapped", mapped - counts["n_keys"]),
        _exact(f"{name} frozen parameters", frozen - counts["frozen"]),
        _exact(f"{name} CLIP tensors and shapes", clip),
        _exact(f"{name} SAM tensors and shapes", sam),
    ]


def _encoder_differences(
    clip: dict[str, torch.Tensor], sam: dict[str, torch.Tensor], config: DecoderConfig
) -> tuple[int, int]:
    """Differences of the encoders' state dicts from those of the official architecture that fits."""
    clip_difference = len(clip)
    for entry in OFFICIAL_WEIGHTS:
        if entry.kind == "clip" and clip_difference:
            model = build_clip(entry.architecture, device="meta")
            if (model.pyramid_channels, model.embedding_dim) == (config.clip_channels, config.embedding_dim):
                clip_difference = _difference(model.model.state_dict(), clip)
    sam_model = build_sam(sam_preset("vit_b"), device="meta").sam.state_dict() if sam else {}
    return clip_difference, _difference(sam_model, sam)


def _difference(ours: dict[str, torch.Tensor], published: dict[str, torch.Tensor]) -> int:
    one, other = ({(name, tuple(t.shape)) for name, t in state.items()} for state in (ours, published))
    return len(one ^ other)


def _exact(case: str, difference: int) -> CaseResult:
    return CaseResult(case=case, error=float(abs(difference)), tolerance=0.0, passed=difference == 0)

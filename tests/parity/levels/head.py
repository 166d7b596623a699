"""b_head_*: the whole trained part, with what lies between its stages."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from frozenseg.decoder import DecoderConfig, MaskDecoder, published_key
from frozenseg.types import DecoderOutput, EncoderFeatures, FeatureKey, TextEmbeddings
from tests.parity.golden import load_module
from tests.parity.result import CaseResult

EARLY, FIRST_LAYER, FINAL = 2e-5, 5e-5, 1e-2
# Masks are thresholded from layer to layer, so rounding grows: (layers up to, tolerance).
BY_LAYER = ((3, 2e-4), (6, 2e-3))


def check(path: Path) -> list[CaseResult]:
    """Relative mean differences of every array that the file holds."""
    fill, inputs = load_module(path.parent, "fill"), load_module(path.parent, "inputs")
    golden = load_module(path.parent, "compare").Golden(path)
    meta = golden.meta
    drawn = inputs.head(meta["seed"], meta["kind"], meta["B"], meta["H"], meta["W"], meta["n_classes"])
    config = DecoderConfig(
        clip_channels=tuple(inputs.CHANNELS[meta["kind"]]),
        embedding_dim=inputs.EMBED[meta["kind"]],
        sam_channels=drawn["sam"].shape[1],
        sam_memory="published",
    )
    decoder = filled_decoder(config, fill, meta["prefix"], meta["salt"]).train(meta["train"])
    found: dict[str, Tensor] = {}
    record_stages(decoder, found)
    with torch.no_grad():
        output = decoder(head_features(drawn), head_text(drawn))
    record_predictions(output, found)
    results = []
    for name in golden.names():
        error, allowed = golden.diff(name, found[name].numpy())[1], tolerance(name)
        label = f"{path.stem}/{name}"
        results.append(CaseResult(case=label, error=error, tolerance=allowed, passed=error <= allowed))
    return results


def tolerance(name: str) -> float:
    """README.md's table; a layer that it doesn't name gets the next later one's."""
    found = re.match(r"aux(\d+)/|mid/ffn_(\d+)", name)
    if found is None:
        if name.startswith("mid/inj_"):
            return FIRST_LAYER  # every injector starts from the untouched stride-32 tokens
        return EARLY if name.startswith("mid/") else FINAL
    layer = int(found[1] or found[2])
    if layer == 0:
        return EARLY if found[1] else FIRST_LAYER
    if layer == 1 and found[1]:
        return FIRST_LAYER
    return next((allowed for last, allowed in BY_LAYER if layer <= last), FINAL)


def filled_decoder(config: DecoderConfig, fill: ModuleType, prefix: str, salt: str) -> MaskDecoder:
    """Weights from the published keys' names. `prefix` is the head's place in the whole model."""
    with torch.device("meta"):
        decoder = MaskDecoder(config)
    weights = {}
    for ours, value in decoder.state_dict().items():
        key = published_key(ours)
        assert key is not None, ours
        key = key.replace("sem_seg_head.", prefix, 1)
        weights[ours] = torch.from_numpy(fill.fill(key, tuple(value.shape), salt))
    decoder.load_state_dict(weights, assign=True)
    return decoder


def head_features(drawn: dict[str, Any]) -> EncoderFeatures:
    stride4, stride8, stride16, stride32 = (torch.from_numpy(drawn[f"res{stage}"]) for stage in (2, 3, 4, 5))
    return EncoderFeatures(
        clip_pyramid=(stride4, stride8, stride16, stride32),
        clip_dense=stride32,
        sam=torch.from_numpy(drawn["sam"]),
        source=FeatureKey(clip="golden", sam="golden", weights_hash=""),
    )


def head_text(drawn: dict[str, Any]) -> TextEmbeddings:
    counts = torch.tensor(drawn["num_templates"])
    return TextEmbeddings(
        rows=torch.from_numpy(drawn["text"]), row_category=torch.arange(len(counts)).repeat_interleave(counts)
    )


def record_stages(decoder: MaskDecoder, found: dict[str, Tensor]) -> None:
    """Fills `found` with the goldens' `mid/` arrays during the next forward."""

    def pixel_hook(_module: Any, _inputs: Any, output: Any) -> None:
        found.update({f"mid/ms_{level}": map_ for level, map_ in enumerate(output.levels)})
        found["mid/mask_features"] = output.mask_features

    def sam_hook(_module: Any, _inputs: Any, output: Tensor) -> None:
        found["mid/sam_fpn"] = output

    def token_hook(name: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Tensor) -> None:
            found[name] = output.transpose(0, 1)

        return hook

    decoder.pixel_decoder.register_forward_hook(pixel_hook)
    if decoder.sam_branch is not None:
        decoder.sam_branch.register_forward_hook(sam_hook)
    for index, layer in enumerate(decoder.transformer.layers):
        layer.feedforward.register_forward_hook(token_hook(f"mid/ffn_{index}"))
        if layer.feature_injector is not None:
            layer.feature_injector.register_forward_hook(token_hook(f"mid/inj_{index}"))


def record_predictions(output: DecoderOutput, found: dict[str, Tensor]) -> None:
    found["pred_masks"], found["pred_logits"] = output.mask_logits, output.class_logits
    for index, prediction in enumerate(output.auxiliary):
        found[f"aux{index}/pred_masks"] = prediction.mask_logits
        found[f"aux{index}/pred_logits"] = prediction.class_logits

"""The published state dict's names for any size of decoder, written down independently of `decoder_key`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from frozenseg.decoder import DecoderConfig, MaskDecoder, decoder_key

_ATTENTION = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")


def _both(*names: str) -> list[str]:
    return [f"{name}.{kind}" for name in names for kind in ("weight", "bias")]


def _deformable(prefix: str, num_layers: int) -> Iterator[str]:
    yield f"{prefix}.level_embed"
    parts = [f"self_attn.{n}" for n in ("sampling_offsets", "attention_weights", "value_proj", "output_proj")]
    for layer in range(num_layers):
        for name in _both(*parts, "norm1", "linear1", "linear2", "norm2"):
            yield f"{prefix}.encoder.layers.{layer}.{name}"


def published_keys(config: DecoderConfig) -> Iterator[str]:
    """Names of the trained part in a released file."""
    pixel, predictor = "sem_seg_head.pixel_decoder", "sem_seg_head.predictor"
    yield "void_embedding.weight"
    for level in range(3):
        yield from (f"{pixel}.{name}" for name in _both(f"input_proj.{level}.0", f"input_proj.{level}.1"))
    yield from _deformable(f"{pixel}.transformer", config.pixel_decoder_layers)
    yield from (f"{pixel}.{name}" for name in ("adapter_1.weight", "layer_1.weight"))
    yield from (f"{pixel}.{name}" for name in _both("adapter_1.norm", "layer_1.norm", "mask_features"))
    if config.sam_channels:
        yield from _deformable(f"{pixel}.sam_transformer", config.pixel_decoder_layers)
        yield from (f"{pixel}.{name}" for name in _both("fpn3.0", "fpn3.1"))
    for layer in range(config.num_layers):
        kinds = ["self_attention_layers", "cross_attention_layers"]
        kinds += ["cross_attention_layers_sam"] if layer in config.feature_injector_layers else []
        for kind in kinds:
            inner = "self_attn" if kind == "self_attention_layers" else "multihead_attn"
            names = [f"{inner}.{name}" for name in _ATTENTION] + _both("norm")
            yield from (f"{predictor}.transformer_{kind}.{layer}.{name}" for name in names)
        for name in _both("linear1", "linear2", "norm"):
            yield f"{predictor}.transformer_ffn_layers.{layer}.{name}"
    yield from (f"{predictor}.{name}.weight" for name in ("query_feat", "query_embed", "level_embed"))
    mlps = [f"{mlp}.layers.{i}" for mlp in ("mask_embed", "class_embed") for i in range(3)]
    yield from (
        f"{predictor}.{name}" for name in _both("decoder_norm", *mlps, "_mask_pooling_proj.0", "_mask_pooling_proj.1")
    )
    yield f"{predictor}.logit_scale"


def published_state(decoder: MaskDecoder, config: DecoderConfig) -> Mapping[str, Tensor]:
    """A decoder's tensors under their published names; fails when a name has no tensor or a tensor no name."""
    own = dict(decoder.state_dict())
    state = {key: own.pop(decoder_key(key) or "") for key in published_keys(config)}
    assert not own, f"no published name for {sorted(own)[:3]}"
    return state

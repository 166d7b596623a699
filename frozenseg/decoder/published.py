"""Names of the published state dicts (FrozenSeg and FC-CLIP) and of our own decoder, in both directions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

_PIXEL = "sem_seg_head.pixel_decoder"
_PREDICTOR = "sem_seg_head.predictor"

# Pairs (published, ours) of whole keys. A star stands for a layer number or for "weight" or "bias".
_PIXEL_DECODER = (
    (f"{_PIXEL}.input_proj.*.0.*", "pixel_decoder.input_projections.*.convolution.*"),
    (f"{_PIXEL}.input_proj.*.1.*", "pixel_decoder.input_projections.*.norm.*"),
    (f"{_PIXEL}.adapter_1.*", "pixel_decoder.lateral.convolution.*"),
    (f"{_PIXEL}.adapter_1.norm.*", "pixel_decoder.lateral.norm.*"),
    (f"{_PIXEL}.layer_1.*", "pixel_decoder.output.convolution.*"),
    (f"{_PIXEL}.layer_1.norm.*", "pixel_decoder.output.norm.*"),
    (f"{_PIXEL}.mask_features.*", "pixel_decoder.mask_projection.*"),
    (f"{_PIXEL}.fpn3.0.*", "sam_branch.reduce.convolution.*"),
    (f"{_PIXEL}.fpn3.1.*", "sam_branch.reduce.norm.*"),
)
_DEFORMABLE_LAYER = (
    ("self_attn.sampling_offsets.*", "attention.offsets.*"),
    ("self_attn.attention_weights.*", "attention.attention_logits.*"),
    ("self_attn.value_proj.*", "attention.value_projection.*"),
    ("self_attn.output_proj.*", "attention.out_projection.*"),
    ("norm1.*", "attention_norm.*"),
    ("linear1.*", "feedforward.expand.*"),
    ("linear2.*", "feedforward.contract.*"),
    ("norm2.*", "feedforward.norm.*"),
)
_ENCODERS = (("transformer", "pixel_decoder.encoder"), ("sam_transformer", "sam_branch.encoder"))
_ATTENTION = (
    ("in_proj_*", "in_projection.*"),
    ("out_proj.*", "out_projection.*"),
)
_ATTENTION_BLOCKS = (
    ("transformer_self_attention_layers", "self_attn", "self_attention"),
    ("transformer_cross_attention_layers", "multihead_attn", "cross_attention"),
    ("transformer_cross_attention_layers_sam", "multihead_attn", "feature_injector"),
)
_TRANSFORMER = (
    (f"{_PREDICTOR}.transformer_ffn_layers.*.linear1.*", "transformer.layers.*.feedforward.expand.*"),
    (f"{_PREDICTOR}.transformer_ffn_layers.*.linear2.*", "transformer.layers.*.feedforward.contract.*"),
    (f"{_PREDICTOR}.transformer_ffn_layers.*.norm.*", "transformer.layers.*.feedforward.norm.*"),
    (f"{_PREDICTOR}.query_feat.*", "transformer.query_content.*"),
    (f"{_PREDICTOR}.query_embed.*", "transformer.query_position.*"),
    (f"{_PREDICTOR}.level_embed.*", "transformer.level_embedding.*"),
    (f"{_PREDICTOR}.decoder_norm.*", "transformer.heads.query_norm.*"),
    (f"{_PREDICTOR}.mask_embed.layers.*.*", "transformer.heads.mask_embedding.layers.*.*"),
    (f"{_PREDICTOR}.class_embed.layers.*.*", "transformer.heads.class_embedding.layers.*.*"),
    (f"{_PREDICTOR}._mask_pooling_proj.0.*", "transformer.heads.pooled_projection.norm.*"),
    (f"{_PREDICTOR}._mask_pooling_proj.1.*", "transformer.heads.pooled_projection.linear.*"),
    (f"{_PREDICTOR}.logit_scale", "transformer.heads.logit_scale"),
    ("void_embedding.*", "void_embedding.*"),
)

_Rules = Sequence[tuple[re.Pattern[str], str]]


def decoder_key(published_key: str) -> str | None:
    """Our state-dict key for a published one; None when the key is no part of the decoder.

    Published keys begin with `sem_seg_head.` or are `void_embedding.weight`. The mapping is one to one, shapes agree.
    """
    return _translate(published_key, _rules()[0])


def published_key(key: str) -> str | None:
    """The published key for one of ours; None for what the published layouts don't have (`sam_projection`)."""
    return _translate(key, _rules()[1])


def _translate(key: str, rules: _Rules) -> str | None:
    for pattern, template in rules:
        if found := pattern.fullmatch(key):
            return found.expand(template)
    return None


@cache
def _rules() -> tuple[_Rules, _Rules]:
    """To our names, and back."""
    pairs = _pairs()
    return [_rule(theirs, ours) for theirs, ours in pairs], [_rule(ours, theirs) for theirs, ours in pairs]


def _pairs() -> list[tuple[str, str]]:
    pairs = [*_PIXEL_DECODER, *_TRANSFORMER]
    for theirs, ours in _ENCODERS:
        pairs.append((f"{_PIXEL}.{theirs}.level_embed", f"{ours}.level_embedding"))
        pairs += [(f"{_PIXEL}.{theirs}.encoder.layers.*.{a}", f"{ours}.layers.*.{b}") for a, b in _DEFORMABLE_LAYER]
    for block, inner, ours in _ATTENTION_BLOCKS:
        pairs.append((f"{_PREDICTOR}.{block}.*.norm.*", f"transformer.layers.*.{ours}.norm.*"))
        pairs += [(f"{_PREDICTOR}.{block}.*.{inner}.{a}", f"transformer.layers.*.{ours}.{b}") for a, b in _ATTENTION]
    return pairs


def _rule(source: str, target: str) -> tuple[re.Pattern[str], str]:
    pattern = re.escape(source).replace(r"\*", r"(\d+|weight|bias)")
    pieces = target.split("*")
    template = pieces[0] + "".join(rf"\g<{number}>{piece}" for number, piece in enumerate(pieces[1:], start=1))
    return re.compile(pattern), template

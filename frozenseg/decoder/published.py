"""Names of the published state dicts (FrozenSeg and FC-CLIP) in our own decoder's."""

from __future__ import annotations

import re

_PIXEL = r"sem_seg_head\.pixel_decoder\."
_PREDICTOR = r"sem_seg_head\.predictor\."

# Read from top to bottom, each rule rewrites the whole prefix that it matches; \1 is a layer number.
_PREFIXES: tuple[tuple[str, str], ...] = (
    (_PIXEL + r"input_proj\.(\d+)\.0\.", r"pixel_decoder.input_projections.\1.convolution."),
    (_PIXEL + r"input_proj\.(\d+)\.1\.", r"pixel_decoder.input_projections.\1.norm."),
    (_PIXEL + r"transformer\.level_embed$", "pixel_decoder.encoder.level_embedding"),
    (_PIXEL + r"transformer\.encoder\.layers\.(\d+)\.", r"pixel_decoder.encoder.layers.\1."),
    (_PIXEL + r"sam_transformer\.level_embed$", "sam_branch.encoder.level_embedding"),
    (_PIXEL + r"sam_transformer\.encoder\.layers\.(\d+)\.", r"sam_branch.encoder.layers.\1."),
    (_PIXEL + r"fpn3\.0\.", "sam_branch.reduce.convolution."),
    (_PIXEL + r"fpn3\.1\.", "sam_branch.reduce.norm."),
    (_PIXEL + r"adapter_1\.norm\.", "pixel_decoder.lateral.norm."),
    (_PIXEL + r"adapter_1\.", "pixel_decoder.lateral.convolution."),
    (_PIXEL + r"layer_1\.norm\.", "pixel_decoder.output.norm."),
    (_PIXEL + r"layer_1\.", "pixel_decoder.output.convolution."),
    (_PIXEL + r"mask_features\.", "pixel_decoder.mask_projection."),
    (
        _PREDICTOR + r"transformer_self_attention_layers\.(\d+)\.(?:self_attn\.)?",
        r"transformer.layers.\1.self_attention.",
    ),
    (
        _PREDICTOR + r"transformer_cross_attention_layers\.(\d+)\.(?:multihead_attn\.)?",
        r"transformer.layers.\1.cross_attention.",
    ),
    (
        _PREDICTOR + r"transformer_cross_attention_layers_sam\.(\d+)\.(?:multihead_attn\.)?",
        r"transformer.layers.\1.feature_injector.",
    ),
    (_PREDICTOR + r"transformer_ffn_layers\.(\d+)\.linear1\.", r"transformer.layers.\1.feedforward.expand."),
    (_PREDICTOR + r"transformer_ffn_layers\.(\d+)\.linear2\.", r"transformer.layers.\1.feedforward.contract."),
    (_PREDICTOR + r"transformer_ffn_layers\.(\d+)\.norm\.", r"transformer.layers.\1.feedforward.norm."),
    (_PREDICTOR + r"query_feat\.", "transformer.query_content."),
    (_PREDICTOR + r"query_embed\.", "transformer.query_position."),
    (_PREDICTOR + r"level_embed\.", "transformer.level_embedding."),
    (_PREDICTOR + r"decoder_norm\.", "transformer.heads.query_norm."),
    (_PREDICTOR + r"mask_embed\.layers\.", "transformer.heads.mask_embedding.layers."),
    (_PREDICTOR + r"class_embed\.layers\.", "transformer.heads.class_embedding.layers."),
    (_PREDICTOR + r"_mask_pooling_proj\.0\.", "transformer.heads.pooled_projection.norm."),
    (_PREDICTOR + r"_mask_pooling_proj\.1\.", "transformer.heads.pooled_projection.linear."),
    (_PREDICTOR + r"logit_scale$", "transformer.heads.logit_scale"),
    (r"void_embedding\.", "void_embedding."),
)

# Inside an attention or encoder layer, after the prefix is ours.
_MEMBERS: tuple[tuple[str, str], ...] = (
    (r"\.self_attn\.sampling_offsets\.", ".attention.offsets."),
    (r"\.self_attn\.attention_weights\.", ".attention.attention_logits."),
    (r"\.self_attn\.value_proj\.", ".attention.value_projection."),
    (r"\.self_attn\.output_proj\.", ".attention.out_projection."),
    (r"(encoder\.layers\.\d+)\.norm1\.", r"\1.attention_norm."),
    (r"(encoder\.layers\.\d+)\.norm2\.", r"\1.feedforward.norm."),
    (r"(encoder\.layers\.\d+)\.linear1\.", r"\1.feedforward.expand."),
    (r"(encoder\.layers\.\d+)\.linear2\.", r"\1.feedforward.contract."),
    (r"\.in_proj_(weight|bias)$", r".in_projection.\1"),
    (r"\.out_proj\.", ".out_projection."),
)


def decoder_key(published_key: str) -> str | None:
    """Our state-dict key for a published one; None when the key is no part of the decoder.

    Published keys begin with `sem_seg_head.` or are `void_embedding.weight`. The mapping is one to one, shapes agree.
    """
    for pattern, replacement in _PREFIXES:
        key, found = re.subn("^" + pattern, replacement, published_key)
        if found:
            for member, ours in _MEMBERS:
                key = re.sub(member, ours, key)
            return key
    return None

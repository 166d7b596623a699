"""A model small enough to build in a fraction of a second, with every part real and random."""

from __future__ import annotations

from frozenseg.decoder import DecoderConfig
from frozenseg.encoders import OpenClipConfig, SamArchitecture
from frozenseg.model import ClipReference, ModelSpec, SamReference
from frozenseg.vocabulary import parse_vocabulary

TINY_CLIP = OpenClipConfig(
    name="tiny-clip", embed_dim=32, image_size=64, timm_trunk="test_convnext3", text_width=32, text_heads=2,
    text_layers=1, context_length=24,
)  # fmt: skip
TINY_SAM = SamArchitecture(
    name="tiny-sam", img_size=64, patch_size=8, dim=32, depth=2, heads=2, global_attn_indexes=(1,), window=4,
    out_channels=32, decoder_depth=1, decoder_heads=2, decoder_mlp_dim=32, iou_head_dim=16,
)  # fmt: skip
TINY_DECODER = DecoderConfig(
    clip_channels=(32, 64, 96, 128), embedding_dim=32, sam_channels=32, hidden_dim=32, mask_dim=32, num_queries=6,
    num_heads=2, num_layers=3, feedforward_dim=32, pixel_decoder_layers=1, pixel_decoder_feedforward_dim=32,
    query_injector_layers=(2,), feature_injector_layers=(0,),
)  # fmt: skip


def tiny_spec(seed: int = 3) -> ModelSpec:
    """Random encoders from a seed, both injectors on."""
    return ModelSpec(
        name="tiny",
        clip=ClipReference(architecture=TINY_CLIP, source="random", location=str(seed)),
        sam=SamReference(architecture=TINY_SAM, source="random", location=str(seed)),
        decoder=TINY_DECODER,
        training_vocabulary=parse_vocabulary("cat; dog,puppy; sky(stuff)"),
        inference={"shortest_side": 64, "longest_side": 128},
    )

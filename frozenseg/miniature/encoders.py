"""The two miniature encoders: their numbers, and how they are built. Weights come from pre-training (pretrain_*.py)."""

from __future__ import annotations

from frozenseg.classify import VILD_TEMPLATES
from frozenseg.encoders import (
    BpeTokenizer,
    OpenClipConfig,
    OpenClipEncoder,
    SamArchitecture,
    SamImageEncoder,
    SubsetTokenizer,
    build_clip,
    build_sam,
)
from frozenseg.miniature.categories import full_vocabulary

IMAGE_SIZE = 256
"""Side of the encoders' input: scenes are shown at twice their size, so that strides 4 to 32 hold."""
CONTEXT_LENGTH = 32
CAPTIONS: tuple[str, ...] = ("{}", *VILD_TEMPLATES)
"""What CLIP reads in pre-training: the bare name, and the 14 ViLD templates that prediction uses."""


def known_captions() -> list[str]:
    """Every caption of every category, categories first: the texts whose tokens the text tower keeps."""
    return [caption.format(c.name) for c in full_vocabulary().categories for caption in CAPTIONS]


def miniature_tokenizer() -> SubsetTokenizer:
    """CLIP's tokeniser, cut down to the words of the miniature world; any other word is refused by name."""
    return SubsetTokenizer.for_texts(BpeTokenizer(CONTEXT_LENGTH), known_captions())


def miniature_clip_config() -> OpenClipConfig:
    """0.5 M parameters: timm's smallest ConvNeXt and a text tower of two layers."""
    return OpenClipConfig(
        name="miniature-clip",
        embed_dim=128,
        image_size=IMAGE_SIZE,
        timm_trunk="test_convnext3",
        text_width=64,
        text_heads=4,
        text_layers=2,
        context_length=CONTEXT_LENGTH,
        vocab_size=miniature_tokenizer().vocab_size,
    )


def build_miniature_clip() -> OpenClipEncoder:
    """An open_clip model with random weights, whose text tower keeps only the miniature world's words."""
    return build_clip(miniature_clip_config(), miniature_tokenizer())


MINIATURE_SAM = SamArchitecture(
    name="miniature-sam",
    stem="conv",
    img_size=IMAGE_SIZE,
    patch_size=8,
    dim=96,
    depth=4,
    heads=4,
    global_attn_indexes=(3,),
    window=8,
    out_channels=96,
    decoder_depth=2,
    decoder_heads=4,
    decoder_mlp_dim=192,
    iou_head_dim=96,
)
"""Patches of 8 of 256 pixels, so that its low-resolution masks (128 px) are as fine as the scene itself."""


def build_miniature_sam(architecture: SamArchitecture = MINIATURE_SAM) -> SamImageEncoder:
    """segment-anything's own classes at 1.05 M parameters, with random weights."""
    return build_sam(architecture)

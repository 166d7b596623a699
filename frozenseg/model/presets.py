"""The published models' specs, without weights of a decoder."""

from __future__ import annotations

from frozenseg.decoder.config import DecoderConfig, SamMemory
from frozenseg.model.spec import ClipReference, ModelSpec, SamReference

CONVNEXT_LARGE = ClipReference(
    architecture="convnext_large_d_320", source="open_clip", location="laion2b_s29b_b131k_ft_soup"
)
RN50X64 = ClipReference(architecture="RN50x64-quickgelu", source="open_clip", location="openai")
SAM_VIT_B = SamReference(architecture="vit_b", source="official", location="sam_vit_b_01ec64.pth")
SAM_VIT_H = SamReference(architecture="vit_h", source="official", location="sam_vit_h_4b8939.pth")

_WIDTHS: dict[str, tuple[tuple[int, int, int, int], int]] = {
    "convnext_large_d_320": ((192, 384, 768, 1536), 768),
    "RN50x64-quickgelu": ((512, 1024, 2048, 4096), 1024),
}


def clip_widths(architecture: str) -> tuple[tuple[int, int, int, int], int]:
    """Channels of a published CLIP's maps at strides 4, 8, 16 and 32, and the width of its embeddings."""
    return _WIDTHS[architecture]


def frozenseg_spec(clip: ClipReference = CONVNEXT_LARGE, sam_memory: SamMemory = "own_level") -> ModelSpec:
    """FrozenSeg with SAM ViT-B. Released weights need `sam_memory="published"`: docs/decisions."""
    channels, width = clip_widths(str(clip.architecture))
    decoder = DecoderConfig(clip_channels=channels, embedding_dim=width, sam_memory=sam_memory)
    return ModelSpec(name="frozenseg", clip=clip, sam=SAM_VIT_B, decoder=decoder, decoder_is_random=True)


def fcclip_spec(clip: ClipReference = CONVNEXT_LARGE) -> ModelSpec:
    """FC-CLIP: no SAM, no injectors."""
    channels, width = clip_widths(str(clip.architecture))
    decoder = DecoderConfig(
        clip_channels=channels,
        embedding_dim=width,
        sam_channels=0,
        query_injector_layers=(),
        feature_injector_layers=(),
    )
    return ModelSpec(name="fc-clip", clip=clip, decoder=decoder, decoder_is_random=True)

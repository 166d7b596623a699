"""SAM's image encoders: the original ViTs (segment-anything) and any smaller one of the same make."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn

from frozenseg import ops
from frozenseg.encoders.conv_stem import CONV_STEM_PATCH, ConvStem
from frozenseg.encoders.frozen import FrozenModule
from frozenseg.encoders.pixels import SAM_PIXEL_MEAN, SAM_PIXEL_STD, normalise
from frozenseg.errors import UserInputError


@dataclass(frozen=True, slots=True, kw_only=True)
class SamArchitecture:
    """The numbers of a SAM; the defaults are those all released models share.

    Fields: trunk: `vit` is segment-anything's, `tiny_vit` MobileSAM's (whose own numbers are fixed: dim, depth, heads,
    global_attn_indexes and window are not read); stem: how a `vit` makes its tokens, `patch` by one projection as
    released, `conv` by three strided convolutions (patch_size is then 8); img_size: side of the square input in pixels;
    window: attention window in patches; global_attn_indexes: blocks that attend everywhere.
    """

    name: str
    trunk: Literal["vit", "tiny_vit"] = "vit"
    stem: Literal["patch", "conv"] = "patch"
    img_size: int = 1024
    patch_size: int = 16
    dim: int = 768
    depth: int = 12
    heads: int = 12
    global_attn_indexes: tuple[int, ...] = (2, 5, 8, 11)
    window: int = 14
    out_channels: int = 256
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp_dim: int = 2048
    iou_head_dim: int = 256

    def __post_init__(self) -> None:
        if self.img_size % self.patch_size:
            raise UserInputError(
                f"SAM {self.name}: img_size {self.img_size} must be a multiple of patch_size {self.patch_size}"
            )
        if self.stem == "conv" and self.patch_size != CONV_STEM_PATCH:
            raise UserInputError(
                f"SAM {self.name}: a conv stem makes patches of {CONV_STEM_PATCH} pixels; "
                f"found patch_size {self.patch_size}"
            )


VIT_T = SamArchitecture(name="vit_t", trunk="tiny_vit")
VIT_B = SamArchitecture(name="vit_b")
VIT_L = SamArchitecture(name="vit_l", dim=1024, depth=24, heads=16, global_attn_indexes=(5, 11, 17, 23))
VIT_H = SamArchitecture(name="vit_h", dim=1280, depth=32, heads=16, global_attn_indexes=(7, 15, 23, 31))
SAM_PRESETS = (VIT_T, VIT_B, VIT_L, VIT_H)


def sam_preset(name: str) -> SamArchitecture:
    """One of `vit_t`, `vit_b`, `vit_l`, `vit_h`.

    Raises:
        UserInputError: another name.
    """
    for preset in SAM_PRESETS:
        if preset.name == name:
            return preset
    raise UserInputError(f"SAM architectures are {', '.join(p.name for p in SAM_PRESETS)}; found {name!r}")


class SamImageEncoder(FrozenModule):
    """A frozen SAM. Its image encoder feeds the decoder; `sam` as a whole also makes masks from points.

    Args:
        sam: a built Sam; it is frozen here.
        architecture: its numbers, or just the name to be written into feature keys.
    """

    def __init__(self, sam: Sam, architecture: SamArchitecture | str) -> None:
        super().__init__()
        self.sam = sam
        self.architecture = architecture if isinstance(architecture, str) else architecture.name
        self.freeze()

    @property
    def out_channels(self) -> int:
        return int(self.sam.prompt_encoder.embed_dim)

    @property
    def input_size(self) -> int:
        return int(self.sam.image_encoder.img_size)

    def prepare(self, images: Tensor, valid_sizes: Tensor) -> Tensor:
        """[B,3,S,S]: normalised, padding zeroed, squeezed to the square input whatever the aspect.

        Args:
            images: [B,3,H,W] uint8 RGB, padded at the right and bottom.
            valid_sizes: [B,2] int64.
        """
        pixels = normalise(images.to(self.weights_device), valid_sizes, SAM_PIXEL_MEAN, SAM_PIXEL_STD)
        return ops.resize_bilinear(pixels, (self.input_size, self.input_size))

    @torch.no_grad()
    def encode_image(self, images: Tensor, valid_sizes: Tensor) -> Tensor:
        """[B,C,h,w], 256 channels at 64x64 for the released models. Arguments as in `prepare`."""
        pixels = self.prepare(images, valid_sizes).to(next(self.parameters()).dtype)
        embedding: Tensor = self.sam.image_encoder(pixels)
        return embedding.to(self.compute_dtype)


class VitSam(SamImageEncoder):
    """SAM with segment-anything's ViT."""


def build_vit(architecture: SamArchitecture) -> nn.Module:
    encoder = ImageEncoderViT(
        depth=architecture.depth,
        embed_dim=architecture.dim,
        img_size=architecture.img_size,
        mlp_ratio=4,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        num_heads=architecture.heads,
        patch_size=architecture.patch_size,
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=architecture.global_attn_indexes,
        window_size=architecture.window,
        out_chans=architecture.out_channels,
    )
    if architecture.stem == "conv":
        encoder.patch_embed = ConvStem(architecture.dim)
    return encoder  # type: ignore[no-any-return]


def assemble_sam(image_encoder: nn.Module, architecture: SamArchitecture) -> Sam:
    """Image encoder, prompt encoder and mask decoder; random weights."""
    grid = architecture.img_size // architecture.patch_size
    return Sam(
        image_encoder=image_encoder,
        prompt_encoder=PromptEncoder(
            embed_dim=architecture.out_channels,
            image_embedding_size=(grid, grid),
            input_image_size=(architecture.img_size, architecture.img_size),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(
                depth=architecture.decoder_depth,
                embedding_dim=architecture.out_channels,
                mlp_dim=architecture.decoder_mlp_dim,
                num_heads=architecture.decoder_heads,
            ),
            transformer_dim=architecture.out_channels,
            iou_head_depth=3,
            iou_head_hidden_dim=architecture.iou_head_dim,
        ),
        pixel_mean=list(SAM_PIXEL_MEAN),
        pixel_std=list(SAM_PIXEL_STD),
    )

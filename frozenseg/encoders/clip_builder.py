"""Builds CLIP encoders from numbers or from open_clip's names. Nothing here reads weights or touches the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import open_clip
import torch
from open_clip import CLIP, CLIPTextCfg, CLIPVisionCfg
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from timm.models.convnext import ConvNeXt

from frozenseg.encoders.clip import OpenClipEncoder
from frozenseg.encoders.convnext import ConvNextClip
from frozenseg.encoders.pixels import CLIP_PIXEL_MEAN, CLIP_PIXEL_STD, Rgb
from frozenseg.encoders.resnet import ResNetClip
from frozenseg.encoders.tokenizer import CONTEXT_LENGTH, BpeTokenizer, Tokenizer
from frozenseg.errors import UserInputError

FAMILIES = "the ConvNeXt (timm) and ResNet (OpenAI) families"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenClipConfig:
    """The numbers of a CLIP model. Exactly one of `timm_trunk` and `resnet_layers` is given.

    Fields: timm_trunk: a ConvNeXt by timm's name; timm_projection: what follows its pooled vector; resnet_layers:
    blocks by stage; resnet_width: of the stem; image_size: pixels a side in CLIP's own training (it sets the grid of
    the ResNets' position embedding and nothing else here); quick_gelu: the activation of OpenAI's own weights.
    """

    name: str
    embed_dim: int
    image_size: int
    timm_trunk: str = ""
    timm_projection: Literal["linear", "mlp"] = "linear"
    resnet_layers: tuple[int, ...] = ()
    resnet_width: int = 64
    text_width: int = 512
    text_heads: int = 8
    text_layers: int = 12
    context_length: int = CONTEXT_LENGTH
    vocab_size: int = 49408
    quick_gelu: bool = False

    def __post_init__(self) -> None:
        if bool(self.timm_trunk) == bool(self.resnet_layers):
            raise UserInputError(f"{self.name}: exactly one of timm_trunk and resnet_layers is needed")


def open_clip_config(name: str) -> OpenClipConfig:
    """The numbers of one of open_clip's named models, e.g. `convnext_large_d_320` or `RN50x64-quickgelu`.

    Raises:
        UserInputError: no such name, or a model outside the two families.
    """
    if name not in open_clip.list_models():
        raise UserInputError(f"open_clip knows no model named {name!r} (see open_clip.list_models())")
    config: dict[str, Any] = open_clip.get_model_config(name)
    vision, text = config["vision_cfg"], config["text_cfg"]
    layers = vision.get("layers")
    if not (str(vision.get("timm_model_name", "")).startswith("convnext") or isinstance(layers, list)):
        raise UserInputError(f"{name!r} is outside {FAMILIES}")
    return OpenClipConfig(
        name=name,
        embed_dim=config["embed_dim"],
        image_size=vision["image_size"],
        timm_trunk=vision.get("timm_model_name", ""),
        timm_projection=vision.get("timm_proj", "linear"),
        resnet_layers=tuple(layers) if isinstance(layers, list) else (),
        resnet_width=vision.get("width", 64),
        text_width=text["width"],
        text_heads=text["heads"],
        text_layers=text["layers"],
        context_length=text["context_length"],
        vocab_size=text["vocab_size"],
        quick_gelu=config.get("quick_gelu", False),
    )


def build_open_clip(config: OpenClipConfig) -> CLIP:
    """An `open_clip.CLIP` with random weights, on the default device (use `with torch.device("meta")` to count)."""
    vision = CLIPVisionCfg(
        image_size=config.image_size,
        timm_model_name=config.timm_trunk or None,
        timm_model_pretrained=False,
        timm_pool="",
        timm_proj=config.timm_projection,
        layers=config.resnet_layers or 12,
        width=config.resnet_width,
    )
    text = CLIPTextCfg(
        context_length=config.context_length,
        vocab_size=config.vocab_size,
        width=config.text_width,
        heads=config.text_heads,
        layers=config.text_layers,
    )
    return CLIP(embed_dim=config.embed_dim, vision_cfg=vision, text_cfg=text, quick_gelu=config.quick_gelu)


def clip_encoder(
    model: CLIP,
    tokenizer: Tokenizer,
    architecture: str,
    pixel_mean: Rgb = CLIP_PIXEL_MEAN,
    pixel_std: Rgb = CLIP_PIXEL_STD,
) -> OpenClipEncoder:
    """Wraps a built open_clip model in the class of its family, chosen by the type of its image tower.

    Raises:
        UserInputError: a model of another family.
    """
    visual = getattr(model, "visual", None)
    if isinstance(model, CLIP) and isinstance(visual, TimmModel) and isinstance(visual.trunk, ConvNeXt):
        return ConvNextClip(model, tokenizer, architecture, pixel_mean, pixel_std)
    if isinstance(model, CLIP) and isinstance(visual, ModifiedResNet):
        return ResNetClip(model, tokenizer, architecture, pixel_mean, pixel_std)
    found = type(getattr(visual, "trunk", visual)).__name__
    raise UserInputError(f"{architecture}: the image tower is a {found}; supported are {FAMILIES}")


def build_clip(
    architecture: str | OpenClipConfig,
    tokenizer: Tokenizer | None = None,
    *,
    device: torch.device | str = "cpu",
) -> OpenClipEncoder:
    """A frozen CLIP encoder with random weights; load real ones with `encoder.model.load_state_dict`.

    Args:
        architecture: one of open_clip's names, or a model's own numbers. OpenAI's weights need a name that ends in
            `-quickgelu`: they were trained with that activation.
        tokenizer: a `SubsetTokenizer` for a text tower with fewer rows; CLIP's own by default.
        device: where the parameters are made; `"meta"` makes none.
    """
    config = open_clip_config(architecture) if isinstance(architecture, str) else architecture
    with torch.device(device):
        model = build_open_clip(config)
    return clip_encoder(model, tokenizer or BpeTokenizer(config.context_length), config.name)

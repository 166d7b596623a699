"""Small encoders with random weights, of every family."""

from __future__ import annotations

import dataclasses

import pytest
import torch

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
from frozenseg.types import Batch

WORDS = "a photo of the small red circle and blue sky in scene"

CONVNEXT = OpenClipConfig(
    name="small_convnext",
    embed_dim=24,
    image_size=160,
    timm_trunk="test_convnext3",
    text_width=32,
    text_heads=2,
    text_layers=2,
)
CONVNEXT_MLP = dataclasses.replace(CONVNEXT, name="small_convnext_mlp", timm_projection="mlp")
RESNET = OpenClipConfig(
    name="small_resnet",
    embed_dim=24,
    image_size=96,
    resnet_layers=(1, 1, 1, 1),
    resnet_width=8,
    text_width=32,
    text_heads=2,
    text_layers=2,
    quick_gelu=True,
)
CLIPS = (CONVNEXT, CONVNEXT_MLP, RESNET)
SMALL_SAM = SamArchitecture(
    name="small_vit",
    img_size=128,
    dim=32,
    depth=3,
    heads=2,
    global_attn_indexes=(1,),
    window=3,
    out_channels=32,
    decoder_depth=1,
    decoder_heads=2,
    decoder_mlp_dim=32,
    iou_head_dim=16,
)
SMALL_TINY_VIT = dataclasses.replace(SMALL_SAM, name="small_tiny_vit", trunk="tiny_vit")
SMALL_CONV_STEM = dataclasses.replace(SMALL_SAM, name="small_conv_stem", stem="conv", patch_size=8)
SAMS = (SMALL_SAM, SMALL_TINY_VIT, SMALL_CONV_STEM)


def shake(module: torch.nn.Module, seed: int = 0) -> None:
    """Random values everywhere, norms and biases too: what is initialised to 0 or 1 would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if not tensor.is_floating_point() or "attn_mask" in name or "pixel_" in name:
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(0.5 + noise.abs())
            elif tensor.ndim < 2:
                tensor.add_(0.1 * noise)
            else:
                tensor.copy_(noise / tensor[0].numel() ** 0.5)


def make_clip(config: OpenClipConfig, words: str = WORDS) -> OpenClipEncoder:
    tokenizer = SubsetTokenizer.for_texts(BpeTokenizer(), [words])
    clip = build_clip(dataclasses.replace(config, vocab_size=tokenizer.vocab_size), tokenizer)
    shake(clip)
    return clip


def make_sam(architecture: SamArchitecture) -> SamImageEncoder:
    sam = build_sam(architecture)
    shake(sam)
    return sam


@pytest.fixture(autouse=True)
def _seed() -> None:
    """What `shake` leaves as it is, and every draw of a test, comes out the same each time."""
    torch.manual_seed(0)


@pytest.fixture(params=CLIPS, ids=lambda config: config.name)
def clip(request: pytest.FixtureRequest) -> OpenClipEncoder:
    return make_clip(request.param)


@pytest.fixture(params=SAMS, ids=lambda architecture: architecture.name)
def sam(request: pytest.FixtureRequest) -> SamImageEncoder:
    return make_sam(request.param)


@pytest.fixture
def batch() -> Batch:
    """Two images of different sizes, one of them padded on both sides, with rubbish in the padding."""
    images = torch.randint(0, 256, (2, 3, 96, 160), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    return Batch(image_ids=("a", "b"), images=images, valid_sizes=torch.tensor([[96, 160], [70, 101]]))

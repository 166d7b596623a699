"""SAM encoders, against segment-anything's builders and MobileSAM's package."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
import torch
from segment_anything import sam_model_registry
from torch.nn import functional as F

from frozenseg.encoders import SamArchitecture, SamImageEncoder, TinyVitSam, VitSam, build_clip, build_sam, sam_preset
from frozenseg.encoders.tiny_vit import TinyVit
from frozenseg.errors import UserInputError
from frozenseg.types import Batch
from tests.encoders.conftest import SMALL_SAM, SMALL_TINY_VIT, make_sam, shake


def test_the_image_is_normalised_padded_and_squeezed(sam: SamImageEncoder, batch: Batch) -> None:
    mean, std = sam.sam.pixel_mean, sam.sam.pixel_std
    pixels = (batch.images.float() - mean) / std
    pixels[1, :, 70:] = 0
    pixels[1, :, :, 101:] = 0
    squeezed = F.interpolate(pixels, (128, 128), mode="bilinear", align_corners=False)
    torch.testing.assert_close(sam.prepare(batch.images, batch.valid_sizes), squeezed)
    torch.testing.assert_close(sam.encode_image(batch.images, batch.valid_sizes), sam.sam.image_encoder(squeezed))


def test_an_input_of_the_right_size_is_taken_as_it_is(sam: SamImageEncoder) -> None:
    images = torch.randint(0, 256, (1, 3, 128, 128), dtype=torch.uint8)
    expected = (images.float() - sam.sam.pixel_mean) / sam.sam.pixel_std
    torch.testing.assert_close(sam.prepare(images, torch.tensor([[128, 128]])), expected)


def test_padding_content_does_not_matter(sam: SamImageEncoder, batch: Batch) -> None:
    other = batch.images.clone()
    other[1, :, 70:] = 255
    assert torch.equal(sam.encode_image(batch.images, batch.valid_sizes), sam.encode_image(other, batch.valid_sizes))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_near_the_full_result(sam: SamImageEncoder, batch: Batch, dtype: torch.dtype) -> None:
    full = sam.encode_image(batch.images, batch.valid_sizes)
    with torch.autocast("cpu", dtype=dtype):
        low = sam.encode_image(batch.images, batch.valid_sizes)
    assert low.dtype == dtype
    assert 0 < (low.float() - full).abs().mean() / full.abs().mean() < 0.05


@pytest.mark.parametrize(("name", "count"), [("vit_b", 93_735_472), ("vit_l", 312_342_832), ("vit_h", 641_090_608)])
def test_the_presets_are_segment_anythings(name: str, count: int) -> None:
    ours = build_sam(sam_preset(name), device="meta")
    assert isinstance(ours, VitSam)
    assert sum(p.numel() for p in ours.parameters()) == count
    with torch.device("meta"):
        theirs = sam_model_registry[name]()
    assert {k: v.shape for k, v in ours.sam.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }
    wanted = [block.window_size for block in theirs.image_encoder.blocks]
    assert [block.window_size for block in ours.sam.image_encoder.blocks] == wanted
    assert (ours.input_size, ours.out_channels, ours.architecture) == (1024, 256, name)


def test_frozen_counts_of_the_published_models() -> None:
    """FACTS: 445.5 M and 717.0 M frozen; 293.5 M and 514.1 M of them without the text tower."""
    sam = sum(p.numel() for p in build_sam(sam_preset("vit_b"), device="meta").parameters())
    for name, frozen, without_text in (
        ("convnext_large_d_320", 445_508_081, 293_506_289),
        ("RN50x64", 716_993_777, 514_115_825),
    ):
        clip = build_clip(name, device="meta")
        image_side = sum(p.numel() for p in clip.model.visual.parameters()) + clip.model.logit_scale.numel()
        assert sum(p.numel() for p in clip.parameters()) + sam == frozen
        assert image_side + sam == without_text


def test_unknown_names_and_numbers_are_refused() -> None:
    with pytest.raises(UserInputError, match="vit_t, vit_b, vit_l, vit_h; found 'vit_g'"):
        sam_preset("vit_g")
    with pytest.raises(UserInputError, match="img_size 100 must be a multiple of patch_size 16"):
        SamArchitecture(name="odd", img_size=100)
    with pytest.raises(UserInputError, match="a tiny_vit has patch_size 16; found 8"):
        build_sam(dataclasses.replace(SMALL_TINY_VIT, patch_size=8))
    with pytest.raises(UserInputError, match="conv stem makes patches of 8 pixels; found patch_size 16"):
        dataclasses.replace(SMALL_SAM, stem="conv")


def test_the_kept_sam_decodes_prompts(sam: SamImageEncoder, batch: Batch) -> None:
    """Prompt encoder and mask decoder fit the embedding: what mask generation needs."""
    embedding = sam.encode_image(batch.images[:1], batch.valid_sizes[:1])
    with torch.no_grad():
        points = (torch.tensor([[[40.0, 60.0]]]), torch.ones(1, 1))
        sparse, dense = sam.sam.prompt_encoder(points=points, boxes=None, masks=None)
        masks, scores = sam.sam.mask_decoder(embedding, sam.sam.prompt_encoder.get_dense_pe(), sparse, dense, True)
    assert tuple(masks.shape[:2]) == (1, 3)
    assert tuple(masks.shape[2:]) == (4 * embedding.shape[2], 4 * embedding.shape[3])
    assert tuple(scores.shape) == (1, 3)


def mobile_sam(img_size: int) -> torch.nn.Module:
    """MobileSAM's own encoder (package mobilesam-mirror). Its forward ends in a fixed 64x64: only 1024 runs whole."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its timm imports are of another age
        from mobile_sam.modeling import TinyViT

    return TinyViT(
        img_size=img_size, embed_dims=[64, 128, 160, 320], depths=[2, 2, 6, 2], num_heads=[2, 4, 5, 10],
        window_sizes=[7, 7, 14, 7], drop_path_rate=0.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    "img_size",
    # 224: windows fit or hold the whole map. 160: windows are filled up with zeros.
    [224, 160, pytest.param(1024, marks=pytest.mark.slow)],
)
def test_tiny_vit_equals_mobile_sam(img_size: int) -> None:
    theirs = mobile_sam(img_size)
    shake(theirs, seed=5)
    theirs.train(False)  # which also brings its cached attention biases up to date
    ours = TinyVit(img_size)
    assert not any(key.startswith(("head.", "norm_head.")) for key in ours.state_dict())
    ours.load_state_dict(theirs.state_dict())
    ours.train(False)
    images = torch.randn(1, 3, img_size, img_size, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        tokens = theirs.patch_embed(images)
        for layer in theirs.layers:
            tokens = layer(tokens)
        cells = tokens.transpose(1, 2).unflatten(2, (img_size // 16, img_size // 16))
        expected, found = theirs.neck(cells), ours(images)
        if img_size == 1024:
            torch.testing.assert_close(theirs(images), expected)
    assert expected.abs().mean() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_mobile_sam_file_loads_whole() -> None:
    """`mobile_sam.pt` is the state dict of all of SAM, TinyViT's unused classifier included."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mobile_sam import sam_model_registry as mobile_registry
    theirs = mobile_registry["vit_t"]()
    state = theirs.state_dict()
    keys = set(state)
    ours = build_sam(sam_preset("vit_t"))
    assert isinstance(ours, TinyVitSam)
    ours.sam.load_state_dict(state)
    assert set(state) == keys, "loading must not take keys out of the caller's dict"
    for key, value in ours.sam.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert set(keys) - set(ours.sam.state_dict()) == {
        f"image_encoder.{name}.{kind}" for name in ("head", "norm_head") for kind in ("weight", "bias")
    }


def test_a_tiny_vit_of_another_size_attends_within_its_windows() -> None:
    """At 112 pixels the maps are 28, 14, 7, 7: the last windows hold the whole map, without padding."""
    sam = make_sam(dataclasses.replace(SMALL_TINY_VIT, img_size=112))
    images = torch.randint(0, 256, (2, 3, 112, 112), dtype=torch.uint8)
    assert tuple(sam.encode_image(images, torch.tensor([[112, 112]] * 2)).shape) == (2, 32, 7, 7)


def test_small_numbers_are_allowed() -> None:
    sam = make_sam(dataclasses.replace(SMALL_SAM, img_size=64, window=2))
    assert (sam.input_size, sam.out_channels) == (64, 32)

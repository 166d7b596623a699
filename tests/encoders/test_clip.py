"""CLIP encoders: shapes, padding, pooling, text, against open_clip's own forward where it has one."""

from __future__ import annotations

import dataclasses

import open_clip
import pytest
import torch
from torch.nn import functional as F

from frozenseg.encoders import (
    BpeTokenizer,
    ConvNextClip,
    OpenClipConfig,
    OpenClipEncoder,
    ResNetClip,
    build_clip,
    clip_encoder,
    open_clip_config,
)
from frozenseg.encoders.pixels import CLIP_PIXEL_MEAN, CLIP_PIXEL_STD
from frozenseg.errors import UserInputError
from frozenseg.types import Batch
from tests.encoders.conftest import CONVNEXT, CONVNEXT_MLP, RESNET, make_clip


def normalised(images: torch.Tensor) -> torch.Tensor:
    mean, std = torch.tensor(CLIP_PIXEL_MEAN), torch.tensor(CLIP_PIXEL_STD)
    return (images.float() - mean[:, None, None]) / std[:, None, None]


def whole(batch: Batch) -> torch.Tensor:
    return torch.tensor([list(batch.images.shape[-2:])] * len(batch.images))


def test_the_pyramid_has_strides_4_to_32_and_the_promised_channels(clip: OpenClipEncoder, batch: Batch) -> None:
    features = clip.encode_image(batch.images, batch.valid_sizes)
    expected = [
        (2, channels, 96 // stride, 160 // stride)
        for channels, stride in zip(clip.pyramid_channels, (4, 8, 16, 32), strict=True)
    ]
    assert [tuple(level.shape) for level in features.pyramid] == expected
    assert tuple(features.dense.shape) == expected[-1]


def test_padding_content_does_not_matter(clip: OpenClipEncoder, batch: Batch) -> None:
    other = batch.images.clone()
    other[1, :, 70:] = 255
    other[1, :, :, 101:] = 0
    a = clip.encode_image(batch.images, batch.valid_sizes)
    b = clip.encode_image(other, batch.valid_sizes)
    assert not torch.equal(batch.images, other)
    assert all(torch.equal(x, y) for x, y in zip(a.pyramid, b.pyramid, strict=True))


def test_padding_is_zero_after_normalisation(clip: OpenClipEncoder, batch: Batch) -> None:
    pixels = normalised(batch.images)
    pixels[1, :, 70:] = 0
    pixels[1, :, :, 101:] = 0
    expected = clip._encode_pixels(pixels).dense
    torch.testing.assert_close(clip.encode_image(batch.images, batch.valid_sizes).dense, expected)


def test_a_batch_gives_what_its_images_give_alone(clip: OpenClipEncoder, batch: Batch) -> None:
    together = clip.encode_image(batch.images, batch.valid_sizes).dense
    alone = clip.encode_image(batch.images[1:], batch.valid_sizes[1:]).dense
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(32, 32), (32, 512), (480, 32)])
def test_any_multiple_of_32_goes_through(clip: OpenClipEncoder, size: tuple[int, int]) -> None:
    images = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    features = clip.encode_image(images, torch.tensor([size]))
    assert tuple(features.dense.shape[-2:]) == (size[0] // 32, size[1] // 32)
    assert torch.isfinite(features.dense).all()


@pytest.mark.parametrize("size", [(33, 64), (64, 100), (0, 32)])
def test_other_sizes_are_refused(clip: OpenClipEncoder, size: tuple[int, int]) -> None:
    with pytest.raises(UserInputError, match=f"multiples of 32 pixels; found {size[0]}x{size[1]}"):
        clip.encode_image(torch.zeros(1, 3, *size, dtype=torch.uint8), torch.tensor([size]))


@pytest.mark.parametrize("config", [CONVNEXT, CONVNEXT_MLP], ids=lambda c: c.name)
def test_a_mask_of_the_whole_image_gives_clips_image_embedding(config: OpenClipConfig, batch: Batch) -> None:
    """ConvNeXt pools by average, so that the full mask must repeat open_clip's own forward."""
    clip = make_clip(config)
    expected = clip.model.encode_image(normalised(batch.images))
    dense = clip.encode_image(batch.images, whole(batch)).dense
    pooled = clip.pool_masks(dense, torch.ones(2, 3, 24, 40))
    assert tuple(pooled.embeddings.shape) == (2, 3, clip.embedding_dim)
    torch.testing.assert_close(pooled.embeddings[:, 1], expected, atol=2e-5, rtol=1e-4)


def test_convnext_pools_the_mean_over_positive_cells(batch: Batch) -> None:
    clip = make_clip(CONVNEXT_MLP)
    dense = clip.encode_image(batch.images, batch.valid_sizes).dense
    logits = torch.full((2, 2, 3, 5), -1.0)
    logits[:, 0, 1, 2:4] = 0.5
    logits[:, 1, 2, 4] = 1e-3
    pooled = clip.pool_masks(dense, logits)
    visual = clip.model.visual
    for q, vector in enumerate((dense[:, :, 1, 2:4].mean(-1), dense[:, :, 2, 4])):
        expected = visual.head(visual.trunk.head.norm(vector[:, :, None, None]).flatten(1))
        torch.testing.assert_close(pooled.embeddings[:, q], expected, atol=1e-5, rtol=1e-4)
    assert pooled.non_empty.all()


def attention_pooled(clip: OpenClipEncoder, dense: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """One image and one mask, by torch's attention over the unblocked cells only. dense [C,h,w], mask [h,w] bool."""
    pool = clip.model.visual.attnpool
    side = int((len(pool.positional_embedding) - 1) ** 0.5)
    grid = pool.positional_embedding[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    position = F.interpolate(grid, dense.shape[-2:], mode="bilinear", align_corners=False)[0]
    keys = (dense + position)[:, mask].T[:, None]
    query = (dense.flatten(1).mean(1) + pool.positional_embedding[0])[None, None]
    output, _ = F.multi_head_attention_forward(
        query, keys, keys, query.shape[-1], pool.num_heads, None,
        torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]),
        None, None, False, 0.0, pool.c_proj.weight, pool.c_proj.bias, training=False, use_separate_proj_weight=True,
        q_proj_weight=pool.q_proj.weight, k_proj_weight=pool.k_proj.weight, v_proj_weight=pool.v_proj.weight,
    )  # fmt: skip
    return output[0, 0]


def test_resnet_attends_inside_the_mask_only(batch: Batch) -> None:
    clip = make_clip(RESNET)
    dense = clip.encode_image(batch.images, batch.valid_sizes).dense
    logits = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(1))
    pooled = clip.pool_masks(dense, logits)
    for b in range(2):
        for q in range(4):
            expected = attention_pooled(clip, dense[b], logits[b, q] > 0)
            torch.testing.assert_close(pooled.embeddings[b, q], expected, atol=1e-5, rtol=1e-4)


def test_an_entirely_blocked_query_gives_exactly_the_projections_bias() -> None:
    clip = make_clip(RESNET)
    dense = torch.randn(1, clip.pyramid_channels[3], 3, 5) * 30
    logits = torch.full((1, 3, 3, 5), -2.0)
    logits[0, 1, 0, 0] = 2.0
    pooled = clip.pool_masks(dense, logits)
    assert pooled.non_empty.tolist() == [[False, True, False]]
    assert torch.isfinite(pooled.embeddings).all()
    bias = clip.model.visual.attnpool.c_proj.bias
    assert torch.equal(pooled.embeddings[0, 0], bias)
    assert torch.equal(pooled.embeddings[0, 2], bias)


def test_an_empty_mask_is_finite_and_marked(clip: OpenClipEncoder, batch: Batch) -> None:
    dense = clip.encode_image(batch.images, batch.valid_sizes).dense
    logits = torch.full((2, 2, 24, 40), -1.0)
    logits[:, 1, :8, :8] = 1.0
    logits[:, 0, 9, 9] = 0.9  # one pixel: gone at the dense resolution
    pooled = clip.pool_masks(dense, logits)
    assert pooled.non_empty.tolist() == [[False, True]] * 2
    assert torch.isfinite(pooled.embeddings).all()


def test_no_masks_give_no_embeddings(clip: OpenClipEncoder, batch: Batch) -> None:
    dense = clip.encode_image(batch.images, batch.valid_sizes).dense
    pooled = clip.pool_masks(dense, torch.zeros(2, 0, 24, 40))
    assert tuple(pooled.embeddings.shape) == (2, 0, clip.embedding_dim)
    assert tuple(pooled.non_empty.shape) == (2, 0)


def test_text_equals_open_clips_own(clip: OpenClipEncoder) -> None:
    """Ours leaves out the positions after the longest text; causal attention makes that exact."""
    texts = ["red", "a photo of the small red circle and blue sky in the scene", ""]
    expected = clip.model.encode_text(clip.tokenizer(texts))
    torch.testing.assert_close(clip.encode_text(texts), expected, atol=1e-5, rtol=1e-4)
    assert tuple(clip.encode_text([]).shape) == (0, clip.embedding_dim)


def test_the_logit_scale_is_clamped_at_100(clip: OpenClipEncoder) -> None:
    clip.model.logit_scale.fill_(3.0)
    assert clip.logit_scale == pytest.approx(20.0855, rel=1e-5)
    clip.model.logit_scale.fill_(5.0)
    assert clip.logit_scale == 100.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_features_of_its_dtype_near_the_full_ones(
    clip: OpenClipEncoder, batch: Batch, dtype: torch.dtype
) -> None:
    full = clip.encode_image(batch.images, batch.valid_sizes)
    logits = torch.randn(2, 5, 24, 40)
    with torch.autocast("cpu", dtype=dtype):
        low = clip.encode_image(batch.images, batch.valid_sizes)
        pooled = clip.pool_masks(low.dense, logits)
        text = clip.encode_text(["red circle"])
    assert {level.dtype for level in (*low.pyramid, low.dense)} == {dtype}
    error = (low.dense.float() - full.dense).abs().mean() / full.dense.abs().mean()
    assert 0 < error < 0.05
    assert torch.isfinite(pooled.embeddings.float()).all()
    assert torch.isfinite(text.float()).all()


def test_weights_in_bfloat16_work_without_autocast(clip: OpenClipEncoder, batch: Batch) -> None:
    clip = clip.to(torch.bfloat16)
    features = clip.encode_image(batch.images, batch.valid_sizes)
    assert features.dense.dtype == torch.bfloat16
    assert torch.isfinite(clip.pool_masks(features.dense, torch.randn(2, 3, 24, 40)).embeddings).all()
    assert clip.encode_text(["red"]).dtype == torch.bfloat16


def test_the_family_is_chosen_by_type() -> None:
    assert isinstance(build_clip(CONVNEXT, device="meta"), ConvNextClip)
    assert isinstance(build_clip(RESNET, device="meta"), ResNetClip)
    disguised = dataclasses.replace(RESNET, name="convnext_in_name_only")
    assert type(build_clip(disguised, device="meta")) is ResNetClip


def test_other_families_are_refused_by_name() -> None:
    with pytest.raises(UserInputError, match="'ViT-B-32' is outside the ConvNeXt"):
        open_clip_config("ViT-B-32")
    with pytest.raises(UserInputError, match="no model named 'convnext_huge'"):
        open_clip_config("convnext_huge")
    with torch.device("meta"):
        vit = open_clip.CLIP(
            embed_dim=8,
            vision_cfg={"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
            text_cfg={"width": 8, "heads": 1, "layers": 1},
        )
    with pytest.raises(UserInputError, match="mine: the image tower is a VisionTransformer"):
        clip_encoder(vit, BpeTokenizer(), "mine")


def test_a_tokeniser_of_another_size_is_refused() -> None:
    with pytest.raises(UserInputError, match="has 300 tokens and 77 positions, its tokeniser 49408 and 77"):
        build_clip(dataclasses.replace(CONVNEXT, vocab_size=300), device="meta")


@pytest.mark.parametrize(("trunk", "layers"), [("", ()), ("test_convnext3", (1, 1, 1, 1))], ids=["neither", "both"])
def test_a_config_names_exactly_one_trunk(trunk: str, layers: tuple[int, ...]) -> None:
    with pytest.raises(UserInputError, match="exactly one of timm_trunk and resnet_layers"):
        OpenClipConfig(name="x", embed_dim=8, image_size=32, timm_trunk=trunk, resnet_layers=layers)


SIZES = {
    # name: all parameters, image tower and logit scale, dense channels, width. Source: FACTS (counts), open_clip.
    "convnext_large_d_320": (351_772_609, 199_770_817, 1536, 768),
    "RN50x64": (623_258_305, 420_380_353, 4096, 1024),
    "RN50x64-quickgelu": (623_258_305, 420_380_353, 4096, 1024),
    "convnext_base_w_320": (179_385_345, 88_221_825, 1024, 640),
    "convnext_xxlarge": (1_200_576_385, 846_543_745, 3072, 1024),
    "RN50": (102_007_137, 38_316_897, 2048, 1024),
    "RN101": (None, None, 2048, 512),
    "RN50x4": (None, None, 2560, 640),
    "RN50x16": (None, None, 3072, 768),
}


@pytest.mark.parametrize("name", SIZES)
def test_named_models_have_their_sizes(name: str) -> None:
    total, without_text, channels, width = SIZES[name]
    clip = build_clip(name, device="meta")
    assert (clip.pyramid_channels[3], clip.embedding_dim, clip.architecture) == (channels, width, name)
    if total is not None:
        assert sum(p.numel() for p in clip.parameters()) == total
        assert sum(p.numel() for p in clip.model.visual.parameters()) + 1 == without_text


@pytest.mark.parametrize("name", ["convnext_base_w_320", "convnext_large_d_320", "RN50", "RN50x4-quickgelu"])
def test_our_builder_makes_open_clips_model(name: str) -> None:
    """Same keys, shapes and module types as open_clip's own factory, activations included."""
    with torch.device("meta"):
        theirs = open_clip.create_model(name, pretrained=None, device="meta")
    ours = build_clip(name, device="meta").model
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    dropped = ("DropPath", "Identity", "Dropout")  # training only
    kinds = [[type(m).__name__ for m in model.modules() if type(m).__name__ not in dropped] for model in (ours, theirs)]
    assert kinds[0] == kinds[1]

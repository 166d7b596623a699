"""Sine embedding, point sampling, resizing, mask product and pooling, class logits."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from frozenseg.ops import (
    class_logits,
    mask_product,
    pool_masks,
    resize_bilinear,
    sample_points,
    sine_position_embedding,
)


def test_sine_embedding_follows_the_formula() -> None:
    height, width, dim = 3, 5, 16
    found = sine_position_embedding((height, width), dim).reshape(height, width, dim)
    half = dim // 2
    for y in range(height):
        for x in range(width):
            for i in range(half):
                period = 10000 ** (2 * (i // 2) / half)
                wave = math.sin if i % 2 == 0 else math.cos
                in_y = wave((y + 1) / (height + 1e-6) * 2 * math.pi / period)
                in_x = wave((x + 1) / (width + 1e-6) * 2 * math.pi / period)
                assert found[y, x, i].item() == pytest.approx(in_y, abs=2e-6)
                assert found[y, x, half + i].item() == pytest.approx(in_x, abs=2e-6)


def test_sine_embedding_has_the_published_epsilon() -> None:
    """On one pixel the angle is 2π/(1 + 1e-6): its sine is -6.3e-6, and +1.7e-7 in float32 without the epsilon."""
    assert sine_position_embedding((1, 1), 8)[0, 0].item() == pytest.approx(-6.28e-6, abs=5e-7)


def test_sample_points_counts_zero_outside() -> None:
    maps = torch.arange(6.0).reshape(1, 1, 2, 3) + 1
    points = torch.tensor([[[0.5 / 3, 0.25], [2.5 / 3, 0.75], [0.0, 0.0], [1.0, 1.0], [0.5, 0.5]]])
    found = sample_points(maps, points)[0, 0]
    torch.testing.assert_close(found, torch.tensor([1.0, 6.0, 0.25, 1.5, 3.5]))


def test_resize_keeps_what_fits() -> None:
    x = torch.rand(1, 2, 4, 6)
    assert resize_bilinear(x, (4, 6)) is x
    assert resize_bilinear(x, (2, 3)).shape == (1, 2, 2, 3)
    # Halving without antialias means the two middle pixels of each axis, which is the mean of 2x2.
    torch.testing.assert_close(resize_bilinear(x, (2, 3)), F.avg_pool2d(x, 2))


@pytest.mark.parametrize("size", [(4, 3), (70, 70), (16, 24)])
def test_resize_is_interpolation_in_every_memory_format(size: tuple[int, int]) -> None:
    x = torch.randn(2, 5, 8, 12)
    wanted = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    for given in (x, x.to(memory_format=torch.channels_last)):
        torch.testing.assert_close(resize_bilinear(given, size), wanted)


def product_gradients(
    product: Callable[[Tensor, Tensor], Tensor], grad: Tensor, embeddings: Tensor, features: Tensor
) -> tuple[Tensor, ...]:
    leaves = [embeddings.clone().requires_grad_(), features.clone().requires_grad_()]
    masks = product(*leaves)
    return masks.detach(), *torch.autograd.grad(masks, leaves, grad)


@pytest.mark.parametrize("taught", [[], [1], [0, 3, 4], [0, 1, 2, 3, 4]], ids=len)
def test_mask_product_is_the_einsum_whichever_queries_are_taught(taught: list[int]) -> None:
    """The second image's gradient is negative only, so that no row of it has a positive end."""
    g = torch.Generator().manual_seed(0)
    embeddings, features = torch.randn(2, 5, 3, generator=g), torch.randn(2, 3, 4, 6, generator=g)
    grad = torch.zeros(2, 5, 4, 6)
    grad[0, taught] = torch.randn(len(taught), 4, 6, generator=g)
    grad[1, 2, 1, 1] = -1.0
    found = product_gradients(mask_product, grad, embeddings, features)
    plain = product_gradients(lambda e, f: torch.einsum("bqc,bchw->bqhw", e, f), grad, embeddings, features)
    for mine, wanted in zip(found, plain, strict=True):
        torch.testing.assert_close(mine, wanted)


def test_mask_product_passes_a_gradient_on_that_is_not_a_number() -> None:
    grad = torch.zeros(1, 2, 2, 2)
    grad[0, 1, 0, 0] = torch.nan
    _, embeddings, features = product_gradients(mask_product, grad, torch.ones(1, 2, 3), torch.ones(1, 3, 2, 2))
    assert embeddings[0, 1].isnan().all()
    assert features[..., 0, 0].isnan().all()


def test_mask_product_follows_autocast() -> None:
    embeddings, features = torch.randn(1, 2, 3, requires_grad=True), torch.randn(1, 3, 2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        masks = mask_product(embeddings, features)
    assert masks.dtype == torch.bfloat16
    assert masks.requires_grad


def test_pool_masks_is_the_mean_inside() -> None:
    features = torch.randn(2, 3, 4, 4)
    masks = torch.randn(2, 5, 4, 4, requires_grad=True)
    found = pool_masks(features, masks)
    inside = masks[1, 2] > 0
    torch.testing.assert_close(found[1, 2], features[1][:, inside].mean(-1))
    assert not found.requires_grad


def test_pool_masks_of_an_empty_mask_is_zero() -> None:
    found = pool_masks(torch.ones(1, 3, 4, 4), -torch.ones(1, 2, 8, 8))
    assert torch.equal(found, torch.zeros(1, 2, 3))


def test_pool_masks_resizes_the_logits_not_the_mask() -> None:
    logits = torch.full((1, 1, 2, 2), -1.0)
    logits[..., 0, 0] = 4.0  # the mean is 0.25: inside; a resized mask of 0/1 would be inside too,
    assert pool_masks(torch.ones(1, 1, 1, 1), logits).item() == pytest.approx(1.0)
    logits[..., 0, 0] = 2.0  # here the mean is -0.25: outside
    assert pool_masks(torch.ones(1, 1, 1, 1), logits).item() == 0.0


def test_pool_masks_counts_beyond_half_precision() -> None:
    features = torch.ones(1, 1, 300, 300, dtype=torch.float16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert pool_masks(features, torch.ones(1, 1, 300, 300, dtype=torch.bfloat16)).item() == pytest.approx(
            1.0, rel=1e-3
        )


def test_pool_masks_of_bfloat16_rounds_sums_once() -> None:
    """Rounded after every cell, a sum of 90,000 cells would stop growing at a few hundred."""
    g = torch.Generator().manual_seed(0)
    features = (torch.rand(1, 3, 300, 300, generator=g) + 1).bfloat16().requires_grad_()
    masks = torch.randn(1, 2, 300, 300, generator=g)
    found = pool_masks(features, masks)
    expected = pool_masks(features.detach().float(), masks)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.detach(), expected, rtol=2**-8, atol=0)
    found.sum().backward()
    inside = (masks > 0).float()
    gradient = (inside / inside.sum((-1, -2), keepdim=True)).sum(1, keepdim=True).expand(-1, 3, -1, -1)
    torch.testing.assert_close(features.grad.float(), gradient, rtol=2**-7, atol=0)


def plain_logits(embeddings, rows, row_category, scale, void):
    cosine = F.normalize(embeddings, dim=-1) @ rows.T * scale
    best = [cosine[..., row_category == k].amax(-1) for k in range(int(row_category[-1]) + 1)]
    return torch.stack([*best, F.normalize(embeddings, dim=-1) @ F.normalize(void, dim=-1) * scale], dim=-1)


@pytest.mark.parametrize("counts", [[1, 1, 1, 1], [2, 1, 3, 1], [4]])
def test_class_logits_take_the_best_synonym(counts: list[int]) -> None:
    g = torch.Generator().manual_seed(1)
    row_category = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    rows = F.normalize(torch.randn(sum(counts), 8, generator=g), dim=-1)
    embeddings = torch.randn(2, 5, 8, generator=g, requires_grad=True)
    void = torch.randn(8, generator=g, requires_grad=True)
    scale = torch.tensor(14.0, requires_grad=True)
    grad = torch.randn(2, 5, len(counts) + 1, generator=g)
    found = class_logits(embeddings, rows, row_category, scale, void)
    wanted = plain_logits(embeddings, rows, row_category, scale, void)
    torch.testing.assert_close(found, wanted)
    leaves = (embeddings, void, scale)
    for a, b in zip(torch.autograd.grad(found, leaves, grad), torch.autograd.grad(wanted, leaves, grad), strict=True):
        torch.testing.assert_close(a, b)
    without = class_logits(embeddings, rows, row_category, 14.0)
    torch.testing.assert_close(without, wanted[..., :-1])


def test_class_logits_stay_single_under_autocast() -> None:
    rows = F.normalize(torch.randn(3, 64), dim=-1)
    embeddings = torch.randn(1, 4, 64)
    exact = class_logits(embeddings, rows, torch.arange(3), 100.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(class_logits(embeddings, rows, torch.arange(3), 100.0), exact)

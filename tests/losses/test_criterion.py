"""The criterion against the plain form (benchmarks/baselines/losses.py), and its edge cases."""

from __future__ import annotations

import pytest
import torch

from benchmarks.baselines.losses import point_sample, total_loss
from benchmarks.losses import make_case
from frozenseg.losses import Criterion
from frozenseg.losses.points import corners, pixel_major, sample_masks, sample_pixel_major
from frozenseg.types import DecoderOutput, PanopticTarget


def small_case(segments: int = 5, queries: int = 12) -> tuple[DecoderOutput, list[PanopticTarget]]:
    return make_case(queries, 64, 7, segments)


def empty_target(size: int = 64) -> PanopticTarget:
    nothing = torch.zeros(0, dtype=torch.int64)
    return PanopticTarget(
        masks=torch.zeros(0, size, size, dtype=torch.bool), category_ids=nothing, is_thing=nothing > 0
    )


@pytest.mark.parametrize("segments", [1, 5, 20], ids=["one", "some", "more segments than queries"])
def test_same_losses_gradients_and_draws_as_the_plain_form(segments: int) -> None:
    output, targets = small_case(segments)
    leaves = [output.mask_logits, output.class_logits, output.auxiliary[3].mask_logits]
    torch.manual_seed(3)
    plain = total_loss(output, targets, 300)
    plain_next = torch.rand(1)
    plain_gradients = torch.autograd.grad(plain, leaves)
    torch.manual_seed(3)
    ours = Criterion(num_points=300)(output, targets).total
    assert torch.equal(torch.rand(1), plain_next)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(torch.autograd.grad(ours, leaves), plain_gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_a_batch_without_targets_teaches_void_only_and_keeps_the_graph() -> None:
    output, _ = small_case()
    losses = Criterion(num_points=100)(output, [empty_target(), empty_target()])
    assert losses.mask.abs().sum() == 0
    assert losses.dice.abs().sum() == 0
    assert losses.class_.min() > 0
    torch.autograd.backward(losses.total)
    assert output.mask_logits.grad is not None
    assert output.mask_logits.grad.abs().sum() == 0
    assert output.class_logits.grad is not None
    assert output.class_logits.grad.abs().sum() > 0


def test_the_normaliser_divides_the_mask_terms_only() -> None:
    output, targets = small_case()
    torch.manual_seed(0)
    own = Criterion(num_points=100)(output, targets)
    torch.manual_seed(0)
    doubled = Criterion(num_points=100)(output, targets, 20.0)
    torch.testing.assert_close(own.mask, doubled.mask * 2)
    torch.testing.assert_close(own.dice, doubled.dice * 2)
    torch.testing.assert_close(own.class_, doubled.class_)


def test_non_finite_logits_give_a_non_finite_loss_not_an_exception() -> None:
    output, targets = small_case()
    with torch.no_grad():
        output.mask_logits[0, 0] = float("nan")
        output.class_logits[0, 0] = float("nan")
    assert not torch.isfinite(Criterion(num_points=100)(output, targets).total)


def test_sampling_masks_equals_grid_sample_at_the_borders_too() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(4, 7, 9, generator=generator) > 0.5
    points = torch.cat([torch.rand(500, 2, generator=generator), torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0]])])
    expected = point_sample(masks.float()[:, None], points.expand(4, -1, -1)).squeeze(1)
    torch.testing.assert_close(sample_pixel_major(pixel_major(masks), (7, 9), points), expected, rtol=0, atol=1e-5)
    rows = torch.tensor([2, 0, 2])
    many = sample_masks(masks, rows, points.expand(3, -1, -1))
    torch.testing.assert_close(many, expected[rows], rtol=0, atol=1e-5)
    index, _ = corners(points, (7, 9))
    assert int(index.min()) >= 0
    assert int(index.max()) < 63

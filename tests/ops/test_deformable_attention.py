"""Deformable attention: same values and gradients as the plain form, safe at the edges, and the flat memory."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from benchmarks.baselines.deformable_attention import grid_sample_attention
from frozenseg.ops import deformable_attention as module
from frozenseg.ops import multi_scale_deformable_attention, read_flat_memory

SHAPES = [(2, 3), (1, 1), (5, 4)]


def draw(batch: int = 2, queries: int = 7, heads: int = 3, dim: int = 4, dtype: torch.dtype = torch.float64):
    g = torch.Generator().manual_seed(3)
    value = torch.randn(batch, 27, heads, dim, generator=g, dtype=dtype)
    places = torch.rand(batch, queries, heads, 3, 2, 2, generator=g, dtype=dtype) * 1.6 - 0.3
    places[0, 0], places[0, 1] = 3.0, -5.0  # far outside on both sides
    weights = torch.rand(batch, queries, heads, 3, 2, generator=g, dtype=dtype)
    grad = torch.randn(batch, queries, heads * dim, generator=g, dtype=dtype)
    return value, places, weights, grad


def run_backward(function, inputs, grad) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = function(leaves[0], SHAPES, leaves[1], leaves[2])
    out.backward(grad)
    return [out.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("function", [multi_scale_deformable_attention, module._by_grid_sample])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_the_plain_form(function, dtype: torch.dtype) -> None:
    *inputs, grad = draw(dtype=dtype)
    expected = run_backward(grid_sample_attention, inputs, grad)
    for found, wanted in zip(run_backward(function, inputs, grad), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks smaller than the queries, with an uneven rest."""
    from frozenseg.ops import deformable_attention_cpu as cpu

    *inputs, grad = draw()
    whole = run_backward(multi_scale_deformable_attention, inputs, grad)
    monkeypatch.setattr(cpu, "_BLOCK", 3)
    monkeypatch.setattr(cpu, "_SCATTER_BLOCK", 2)
    for found, wanted in zip(run_backward(multi_scale_deformable_attention, inputs, grad), whole, strict=True):
        torch.testing.assert_close(found, wanted)


def test_gradients_by_differences() -> None:
    value, places, weights, _ = draw(batch=1, queries=3, heads=2, dim=2)
    leaves = [x.requires_grad_() for x in (value, places, weights)]
    assert torch.autograd.gradcheck(lambda v, p, w: multi_scale_deformable_attention(v, SHAPES, p, w), leaves)


def test_samples_outside_read_zero_and_move_nothing() -> None:
    *inputs, grad = draw()
    out, _, grad_places, _ = run_backward(multi_scale_deformable_attention, inputs, grad)
    assert out[0, :2].abs().max() == 0
    assert grad_places[0, :2].abs().max() == 0
    assert out[0, 2:].abs().max() > 0


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e30, -1e30])
def test_places_that_are_no_numbers_cannot_crash(bad: float) -> None:
    value, places, weights, grad = draw(dtype=torch.float32)
    places[1, 3] = bad
    out, *_ = run_backward(multi_scale_deformable_attention, (value, places, weights), grad)
    assert out[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_values_are_read_in_single(dtype: torch.dtype) -> None:
    value, places, weights, _ = draw(dtype=torch.float32)
    out = multi_scale_deformable_attention(value.to(dtype), SHAPES, places, weights.to(dtype))
    assert out.dtype == dtype
    exact = multi_scale_deformable_attention(value.to(dtype).float(), SHAPES, places, weights.to(dtype).float())
    torch.testing.assert_close(out, exact.to(dtype))


def test_no_warning_from_backward() -> None:
    *inputs, grad = draw()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_backward(multi_scale_deformable_attention, inputs, grad)


def test_flat_memory_reads_what_a_one_level_kernel_reads() -> None:
    """Written out entry by entry: (b, q, m) reads source s // 3, level s % 3, with s its own flat number."""
    batch, queries, heads, levels, points = 3, 5, 2, 3, 4
    predictions = torch.arange(batch * queries * heads * levels * points).reshape(batch, queries, heads, levels, points)
    found = read_flat_memory(predictions)
    assert found.shape == (batch, queries, heads, 1, points)
    sources = predictions.reshape(batch * queries * heads, levels, points)
    for b in range(batch):
        for q in range(queries):
            for m in range(heads):
                s = (b * queries + q) * heads + m
                assert torch.equal(found[b, q, m, 0], sources[s // levels, s % levels])
    # Everything is read from the first third: image 1 and 2 read image 0 and 0.
    assert int(found.max()) < batch * queries * heads * points


def test_flat_memory_of_places() -> None:
    places = torch.rand(2, 3, 2, 3, 4, 2)
    assert torch.equal(read_flat_memory(places)[..., 0], read_flat_memory(places[..., 0]))

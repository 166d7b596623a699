"""Run by the tests with TRITON_INTERPRET=1, which Triton reads when it is imported: its kernels, number by number."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from benchmarks.baselines.deformable_attention import grid_sample_attention
from frozenseg.ops.deformable_attention_triton import triton_attention

CASES: tuple[tuple[list[tuple[int, int]], int, int, int, int, int], ...] = (
    ([(2, 3), (1, 1), (5, 4)], 2, 37, 3, 4, 2),  # more queries than a block, an uneven rest
    ([(4, 4)], 1, 5, 1, 8, 4),
    ([(3, 7), (6, 2)], 3, 9, 2, 5, 1),  # channels that are no power of two
)
"""Shapes of the levels; images, queries, heads, channels, points."""


def draw(case: int, dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    shapes, batch, queries, heads, dim, points = CASES[case]
    g = torch.Generator().manual_seed(case)
    cells = sum(height * width for height, width in shapes)
    value = torch.randn(batch, cells, heads, dim, generator=g).to(dtype)
    places = torch.rand(batch, queries, heads, len(shapes), points, 2, generator=g) * 1.6 - 0.3
    places[0, 0], places[0, 1] = 3.0, -5.0  # far outside on both sides
    # On the second case's map, 4 cells wide: a cell's very centre, the outer edge, and the first place that reads zero.
    places[0, 2], places[0, 3], places[0, 4] = 0.125, 1.0, -0.125
    weights = torch.rand(batch, queries, heads, len(shapes), points, generator=g)
    return [value, places, weights], torch.randn(batch, queries, heads * dim, generator=g)


def forward_backward(function, case: int, inputs: list[Tensor], grad: Tensor) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = function(leaves[0], CASES[case][0], leaves[1], leaves[2])
    out.backward(grad.to(out.dtype))
    return [out.detach(), *(leaf.grad for leaf in leaves)]


def check(device: str) -> None:
    for case in range(len(CASES)):
        inputs, grad = draw(case, torch.float32)
        expected = forward_backward(grid_sample_attention, case, [x.double() for x in inputs], grad)
        found = forward_backward(triton_attention, case, [x.to(device) for x in inputs], grad.to(device))
        for left, right in zip(found, expected, strict=True):
            torch.testing.assert_close(left.cpu().double(), right, rtol=2e-5, atol=2e-5)
        for dtype in (torch.bfloat16, torch.float16):
            (value, *others), grad = draw(case, dtype)
            given = [value.to(device), *(x.to(device) for x in others)]
            half = forward_backward(triton_attention, case, given, grad.to(device))
            assert half[0].dtype == half[1].dtype == dtype
            single = forward_backward(triton_attention, case, [given[0].float(), *given[1:]], grad.to(dtype).to(device))
            torch.testing.assert_close(half[0], single[0].to(dtype))
    inputs, _ = draw(0, torch.float32)
    for bad in (torch.nan, torch.inf, -torch.inf, 1e30):
        inputs[1][1, 3] = bad
        out = triton_attention(inputs[0].to(device), CASES[0][0], inputs[1].to(device), inputs[2].to(device)).cpu()
        assert out.isfinite().all()
        assert out[1, 3].abs().max() == 0


if __name__ == "__main__":
    check(sys.argv[1])
    print("agrees")

"""Deformable attention against the plain form (one grid_sample per level), interleaved, on one thread.

    python benchmarks/deformable_attention.py [--rounds 3] [--device cuda]

Sizes of a 1024x1024 picture: 21,504 positions, 256 channels, 8 heads, 3 levels, 4 points. Two kinds of places: `near`
(some cells around each position, as a network predicts them) and `far` (anywhere, a sixth outside). Prints the times of
the fastest round, their ratio, and the largest relative mean difference of outputs and gradients: CPU time of one
thread, or on a GPU the clock's, after one round that compiles the kernels.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.baselines.deformable_attention import grid_sample_attention
from frozenseg.ops import multi_scale_deformable_attention

SHAPES = [(32, 32), (64, 64), (128, 128)]
HEADS, DIM, POINTS = 8, 32, 4
Attention = Callable[..., Tensor]


def draw(kind: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    count = sum(height * width for height, width in SHAPES)
    value = torch.randn(1, count, HEADS, DIM, generator=g)
    samples = (1, count, HEADS, len(SHAPES), POINTS)
    if kind == "far":
        places = torch.rand(*samples, 2, generator=g) * 1.2 - 0.1
    else:
        centres = []
        for height, width in SHAPES:
            y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
            centres.append(torch.stack([x / width, y / height], dim=-1).reshape(-1, 2))
        cells = torch.tensor([(width, height) for height, width in SHAPES])[:, None]
        places = torch.cat(centres)[:, None, None, None] + 3.0 * torch.randn(*samples, 2, generator=g) / cells
    weights = torch.randn(*samples, generator=g).flatten(-2).softmax(-1).reshape(samples)
    return value, places, weights, torch.randn(1, count, HEADS * DIM, generator=g)


def forward_backward(
    attention: Attention, value: Tensor, places: Tensor, weights: Tensor, grad: Tensor
) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in (value, places, weights)]
    out = attention(leaves[0], SHAPES, leaves[1], leaves[2])
    out.backward(grad)
    return [out.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def seconds(device: torch.device, function: Callable[..., object], *arguments: object) -> float:
    if device.type == "cpu":
        start = time.process_time()
        function(*arguments)
        return time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    function(*arguments)
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


def measure(kind: str, rounds: int, device: torch.device) -> None:
    inputs = tuple(x.to(device) for x in draw(kind))
    value, places, weights, _ = inputs
    forms: tuple[Attention, Attention] = (grid_sample_attention, multi_scale_deformable_attention)
    plain, ours = (forward_backward(form, *inputs) for form in forms)
    error = max(float((a - b).abs().mean() / b.abs().mean()) for a, b in zip(ours, plain, strict=True))
    forward: tuple[list[float], list[float]] = ([], [])
    both: tuple[list[float], list[float]] = ([], [])
    # The comparison above has run both once.
    for _ in range(rounds):
        for index, form in enumerate(forms):
            with torch.no_grad():
                forward[index].append(seconds(device, form, value, SHAPES, places, weights))
            both[index].append(seconds(device, forward_backward, form, *inputs))
    for name, times in (("forward", forward), ("forward+backward", both)):
        base, mine = min(times[0]), min(times[1])
        print(f"{kind:5} {name:17} plain {base:8.4f} s  ours {mine:8.4f} s  ratio {base / mine:5.2f}")
    print(f"{kind:5} largest relative mean difference {error:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    arguments = parser.parse_args()
    if arguments.device.type == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no GPU here")
    torch.set_num_threads(1)
    for kind in ("near", "far"):
        measure(kind, arguments.rounds, arguments.device)


if __name__ == "__main__":
    main()

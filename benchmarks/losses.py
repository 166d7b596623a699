#!/usr/bin/env python
"""Matching and losses of 10 outputs, batch 2: ours against one matching per image and output. One thread, interleaved.

python benchmarks/losses.py            # the paper's sizes: 250 queries, crop 1024, 133 categories, 12,544 points
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.baselines.losses import total_loss
from frozenseg.losses import Criterion
from frozenseg.types import DecoderOutput, DecoderPrediction, PanopticTarget


def smooth_maps(count: int, size: int, generator: torch.Generator) -> Tensor:
    """[count,size,size] in about -8..8: blobs with noise, like mask logits."""
    coarse = torch.randn(1, count, 6, 6, generator=generator) * 4
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic")[0]
    return smooth + 0.3 * torch.randn(count, size, size, generator=generator)


def make_case(queries: int, crop: int, categories: int, segments: int) -> tuple[DecoderOutput, list[PanopticTarget]]:
    generator = torch.Generator().manual_seed(0)
    predictions = [
        DecoderPrediction(
            mask_logits=smooth_maps(2 * queries, crop // 4, generator).view(2, queries, crop // 4, -1).requires_grad_(),
            class_logits=(torch.randn(2, queries, categories + 1, generator=generator) * 2).requires_grad_(),
        )
        for _ in range(10)
    ]
    targets = []
    for _ in range(2):
        labels = smooth_maps(segments + 1, crop, generator).argmax(0)
        masks = torch.stack([labels == i for i in range(segments)])
        ids = torch.randint(0, categories, (segments,), generator=generator)
        targets.append(PanopticTarget(masks=masks, category_ids=ids, is_thing=torch.ones(segments, dtype=torch.bool)))
    first = predictions[0]
    output = DecoderOutput(
        mask_logits=first.mask_logits, class_logits=first.class_logits, auxiliary=tuple(predictions[1:])
    )
    return output, targets


def timed(run: Callable[[], Tensor], backward: bool) -> tuple[float, float]:
    torch.manual_seed(0)
    start = time.process_time()
    loss = run()
    if backward:
        torch.autograd.backward(loss)
    return time.process_time() - start, loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=250)
    parser.add_argument("--crop", type=int, default=1024)
    parser.add_argument("--categories", type=int, default=133)
    parser.add_argument("--segments", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backward", action="store_true", help="time the backward pass as well")
    options = parser.parse_args()
    torch.set_num_threads(1)
    output, targets = make_case(options.queries, options.crop, options.categories, options.segments)
    criterion = Criterion()
    ratios = []
    for number in range(options.rounds):
        plain, plain_loss = timed(lambda: total_loss(output, targets), options.backward)
        ours, our_loss = timed(lambda: criterion(output, targets).total, options.backward)
        ratios.append(plain / ours)
        print(f"round {number}: plain {plain:.2f} s, ours {ours:.2f} s, ratio {plain / ours:.2f}")
        difference = abs(plain_loss - our_loss) / plain_loss
        print(f"  losses {plain_loss:.6f} {our_loss:.6f}, relative difference {difference:.1e}")
    print(f"median ratio {statistics.median(ratios):.2f} (to reach: 2)")


if __name__ == "__main__":
    main()

"""Panoptic post-processing against the published loop: same inputs, identical results, interleaved, one thread.

    python -m benchmarks.panoptic [--repeats 5]

Four kinds of masks: "trained" (each query one blob, three quarters of the queries void), "objects" (each query one
blob, none void), "waves" (smooth random maps, several sign changes each) and "noise" (every low-resolution pixel at
random: the worst case, no query is settled by bounds). Times are CPU times of the process: other work counts less.
Two ratios: from the decoder's stride-4 logits (both sides resize), and against the loop alone, given full-size masks.
"""

from __future__ import annotations

import argparse
import math
import time

import torch
from torch import Tensor

from benchmarks.baselines.panoptic import full_size_masks, panoptic_loop
from frozenseg.inference.geometry import ImageGeometry
from frozenseg.inference.panoptic import panoptic

QUERIES, CATEGORIES, LOW_SIZE, IMAGE_SIZE = 250, 133, (120, 160), (480, 640)


def mask_logits(kind: str, generator: torch.Generator) -> Tensor:
    """[QUERIES, *LOW_SIZE] float32."""
    rows = torch.linspace(0, 1, LOW_SIZE[0])[:, None]
    columns = torch.linspace(0, 1, LOW_SIZE[1])[None]

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(QUERIES, 1, 1).uniform_(low, high, generator=generator)

    if kind in ("trained", "objects"):
        distance = ((rows - uniform(0, 1)) ** 2 + (columns - uniform(0, 1)) ** 2).sqrt()
        maps = (uniform(0.03, 0.3) - distance) * 60.0
        return maps.clamp(-12, 12) + 0.3 * torch.randn(maps.shape, generator=generator)
    if kind == "waves":
        maps = torch.zeros(QUERIES, *LOW_SIZE)
        for _ in range(2):
            angle = uniform(-1.5, 1.5) * columns + uniform(-1.5, 1.5) * rows
            maps += torch.sin(2 * math.pi * (angle + uniform(0, 1)))
        return 4 * maps - 4 + 0.4 * torch.randn(maps.shape, generator=generator)
    return 4 * torch.randn(QUERIES, *LOW_SIZE, generator=generator)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    geometry = ImageGeometry.whole(IMAGE_SIZE)
    is_thing = torch.arange(CATEGORIES) < 80
    print(f"{QUERIES} queries, {CATEGORIES} categories, {IMAGE_SIZE} pixels, best of {repeats}, interleaved")
    for kind in ("trained", "objects", "waves", "noise"):
        logits = mask_logits(kind, generator)
        class_logits = 3 * torch.randn(QUERIES, CATEGORIES + 1, generator=generator)
        class_logits[range(20), range(20)] += 12.0  # Some confident queries, so that there are segments to paint.
        if kind == "trained":
            class_logits[QUERIES // 4 :, -1] += 30.0
        scores = class_logits.log_softmax(-1)
        times: dict[str, list[float]] = {"resize": [], "loop": [], "ours": []}
        for _ in range(repeats):
            start = time.process_time()
            masks = full_size_masks(logits, IMAGE_SIZE, IMAGE_SIZE, IMAGE_SIZE)
            times["resize"].append(time.process_time() - start)
            start = time.process_time()
            expected = panoptic_loop(scores, masks, is_thing, 0.0, 0.8)
            times["loop"].append(time.process_time() - start)
            start = time.process_time()
            found = panoptic(scores, logits, geometry, is_thing, 0.0, 0.8)
            times["ours"].append(time.process_time() - start)
        same = torch.equal(expected.segment_ids, found.segment_ids) and expected.segments == found.segments
        resize, loop, ours = (min(times[name]) for name in ("resize", "loop", "ours"))
        print(
            f"{kind:8s} segments {len(found.segments):3d}  identical {same}  resize {resize:.3f} s  loop {loop:.3f} s  "
            f"ours {ours:.3f} s  ratio {(resize + loop) / ours:.1f}x  (the loop alone: {loop / ours:.1f}x)"
        )
        if not same:
            raise SystemExit(f"{kind}: results differ")


if __name__ == "__main__":
    main()

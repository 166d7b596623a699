"""CPU seconds of the miniature's encoders, eight pictures in one pass and one each, before and after the process keeps
the memory that it frees (`frozenseg.memory`).

    OMP_NUM_THREADS=1 python -m benchmarks.freed_memory [--images 8] [--rounds 5]

All in one process and one thread; the allocator's setting cannot be taken back, so the rounds are not interleaved.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time

import torch

import frozenseg
from frozenseg.memory import keep_freed_memory
from serve.parts import encode_together
from serve.travel import check_image


def seconds(segmenter: frozenseg.Segmenter, num_images: int, rounds: int) -> tuple[float, float]:
    """Median CPU seconds of a pass each, and of one pass for all."""
    images = [check_image()] * num_images
    apart, together = [], []
    for _ in range(rounds + 1):
        start = time.process_time()
        for image in images:
            encode_together(segmenter, [image])
        middle = time.process_time()
        encode_together(segmenter, images)
        apart.append(middle - start)
        together.append(time.process_time() - middle)
    # The first round warms up.
    return statistics.median(apart[1:]), statistics.median(together[1:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    segmenter = frozenseg.load("miniature", device="cpu")
    before = seconds(segmenter, options.images, options.rounds)
    keep_freed_memory(segmenter.model.device)
    after = seconds(segmenter, options.images, options.rounds)
    for name, old, new in zip(("one pass each", "one pass for all"), before, after, strict=True):
        print(f"{options.images} images, {name}: {old:.3f} s as it was, {new:.3f} s keeping memory: {old / new:.2f}x")
    print(f"largest size of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())

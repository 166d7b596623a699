"""Decoding and large-scale jitter of one sample: ours against plain PIL and numpy, one core, runs interleaved.

    OMP_NUM_THREADS=1 python benchmarks/jitter.py --truth JSON --images DIR --truth-dir DIR [--crops 24]

Both follow the same plan (flip, zoom, window) for the same bytes. Prints the sum over crops of the best processor
time of each, the ratio, and how far the two results differ.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.baselines import plain_jitter
from frozenseg.data import CocoPanoptic, Jitter, decode_annotation, decode_image
from frozenseg.types import EncodedSample, PanopticTarget


def ours(jitter: Jitter, sample: EncodedSample, epoch: int) -> tuple[Tensor, PanopticTarget]:
    """What a training worker does with one sample of a shard."""
    return jitter(decode_image(sample.image_bytes, sample.image_id), decode_annotation(sample), 0, epoch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--truth-dir", type=Path, required=True)
    parser.add_argument("--crops", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = CocoPanoptic(options.truth, options.images, options.truth_dir)
    jitter = Jitter()
    crop = jitter.config.crop_size
    totals, agreement, difference = np.zeros(2), [], []
    for number in range(options.crops):
        sample = data[number % len(data)]
        size = decode_image(sample.image_bytes, sample.image_id).original_size
        plan = jitter.plan(sample.image_id, size, 0, number)
        plain_args = (sample.image_bytes, sample.panoptic_png, sample.segments, plan, crop)
        times = np.zeros((options.repeats, 2))
        for repeat in range(options.repeats):
            start = time.process_time()
            plain_image, plain_masks, plain_categories = plain_jitter.augment(*plain_args)
            middle = time.process_time()
            image, target = ours(jitter, sample, number)
            times[repeat] = middle - start, time.process_time() - middle
        totals += times.min(axis=0)
        difference.append(np.abs(image.permute(1, 2, 0).numpy().astype(int) - plain_image).mean())
        plain_labels = (plain_masks * (plain_categories + 1)[:, None, None]).sum(0)
        labels = (target.masks.numpy() * (target.category_ids.numpy() + 1)[:, None, None]).sum(0)
        agreement.append((labels == plain_labels).mean())
    print(f"{options.crops} crops: plain {totals[0]:.3f} s, ours {totals[1]:.3f} s, ratio {totals[0] / totals[1]:.2f}")
    print(f"equal labels {100 * np.mean(agreement):.2f} % of pixels, mean difference {np.mean(difference):.2f} levels")


if __name__ == "__main__":
    main()

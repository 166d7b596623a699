"""What share of its time a trainer waits for features when the pool can make more than it needs.

    python -m benchmarks.trainer_idle [--step-seconds 1.0] [--batch 4] [--spare 1.5] [--codec bfloat16] [--crop 1024]

The trainer computes (products of matrices, on one thread) for `--step-seconds` with each batch, and takes the next one
of the feature stream as `pipelines.train_worker` does. The pool is one actor whose images take so long, slept as the
CPU of a GPU's actor would, that it makes `--spare` times what the trainer takes; its features have the sizes of
ConvNeXt-L and SAM. Waiting is all the time between asking for a batch and having it as tensors. The first steps, before
which the actor starts, are not counted.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.ready_features import ReadyFeatures
from benchmarks.stream_throughput import Sizes, stream_config
from frozenseg.decoder import DecoderConfig
from frozenseg.memory import keep_freed_memory
from pipelines import ray_session
from pipelines.ray_session import RayOptions
from pipelines.stream import encoder_pool, row_numbers, training_batches
from pipelines.stream_config import StreamConfig


class Trainer:
    """A process that trains, as a worker of Ray Train does."""

    def train(
        self, shard: Any, stream: StreamConfig, batch_size: int, step_seconds: float
    ) -> list[tuple[float, float]]:
        """(seconds waited, seconds worked) of each step."""
        torch.set_num_threads(1)
        keep_freed_memory(torch.device("cpu"))
        batches, steps = training_batches(shard, stream, batch_size), []
        while True:
            asked = time.perf_counter()
            if next(batches, None) is None:
                return steps
            began = time.perf_counter()
            _work(step_seconds)
            steps.append((began - asked, time.perf_counter() - began))


def _work(seconds: float) -> None:
    matrix, deadline = torch.ones(256, 256), time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        torch.mm(matrix, matrix)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step-seconds", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--num-warm", type=int, default=10, help="steps that are not counted")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--spare", type=float, default=1.5, help="what the pool can make, of what the trainer takes")
    parser.add_argument("--codec", choices=["bfloat16", "uint8"], default="bfloat16")
    parser.add_argument("--crop", type=int, default=1024)
    options = parser.parse_args()
    import ray

    samples = options.batch * options.steps
    sizes = Sizes(crop=options.crop, samples=samples, batch=options.batch, encoder_batch=1, same_blocks=False)
    stream = stream_config(options.codec, sizes)
    arguments = {
        "config": DecoderConfig(),
        "crop": options.crop,
        "codec": options.codec,
        "block_images": stream.images_per_block,
        "seconds_per_image": options.step_seconds / options.batch / options.spare,
    }
    with ray_session.session(options=RayOptions(num_cpus=4, num_gpus=0, dashboard=False, object_store_mb=3000)):
        data = encoder_pool(row_numbers(samples, stream), stream, ReadyFeatures, arguments)
        (shard,) = data.streaming_split(1, equal=True)
        trainer: Any = ray.remote(Trainer).options(num_cpus=1).remote()
        steps = ray.get(trainer.train.remote(shard, stream, options.batch, options.step_seconds))[options.num_warm :]
    waited, worked = (sum(part) for part in zip(*steps, strict=True))
    rate = options.batch * len(steps) / (waited + worked)
    print(
        f"{options.codec}, steps of {options.step_seconds:g} s with {options.batch} images, {rate:.1f} images/s: the "
        f"trainer waited {waited / (waited + worked):.2%} of the time, "
        f"{1000 * statistics.median(wait for wait, _ in steps):.1f} ms a batch (median), "
        f"{1000 * max(wait for wait, _ in steps):.0f} ms at most"
    )


if __name__ == "__main__":
    main()

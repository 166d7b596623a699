"""The feature stream from an encoder actor to a trainer, against plain `map_batches` -> `iter_torch_batches`.

    python -m benchmarks.stream_throughput [--rounds 5] [--samples 64] [--batch 2] [--per-block 1] [--json FILE]

The actor has its features ready (of the sizes of ConvNeXt-L and SAM at `--crop`, 49 MB an image in bfloat16 at 1024),
so that only the way to the trainer is timed: into the object store, out of it in another process by `streaming_split`,
as Ray Train's workers take it, and into batches of torch tensors in bfloat16. Three sides in turns: the baseline, ours
in bfloat16 (the same bytes), ours in 8 bit (decoded to what the baseline delivers). The clock of each starts after the
first images, when the actor is up. Ratios are of rates within a round; all sides must deliver the same values (8 bit:
within its error).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.baselines import plain_stream
from benchmarks.train_step import make_features, make_targets
from frozenseg.decoder import DecoderConfig
from frozenseg.memory import keep_freed_memory
from pipelines import columns as c
from pipelines import ray_session
from pipelines.codec import Codec
from pipelines.encoder_pool import EncoderSource
from pipelines.ray_session import RayOptions
from pipelines.stream import StreamConfig, encoder_pool, row_numbers, training_batches

Side = Literal["baseline", "bfloat16", "uint8"]
SIDES: tuple[Side, ...] = ("baseline", "bfloat16", "uint8")


class ReadyFeatures:
    """Stands for `EncoderActor`: the same features for every image, coded once."""

    def __init__(self, config: DecoderConfig, crop: int, codec: Codec, per_block: int) -> None:
        self._columns = {
            c.IMAGE_ID: np.array(["image"] * per_block),
            c.IS_PADDING: np.zeros(per_block, dtype=np.bool_),
            c.ERROR: np.array([""] * per_block),
            # Hardly any truth, which the baseline does not carry.
            **c.target_to_columns(make_targets(per_block, 8, 1, 1)),
            **c.features_to_columns(make_features(config, per_block, crop), codec, with_dense=False),
        }

    def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
        return {c.EPOCH: block["id"], c.INDEX: block["id"], **self._columns}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What one side did in one round. Fields: cpu_seconds: of the trainer's process; checksum: of the last batch."""

    images_per_s: float
    megabytes_per_s: float
    cpu_seconds_per_image: float
    checksum: float

    def __str__(self) -> str:
        return (
            f"{self.images_per_s:6.1f} images/s, {self.megabytes_per_s:6.0f} MB/s delivered, "
            f"{1000 * self.cpu_seconds_per_image:5.1f} ms of the trainer's CPU an image"
        )


class Trainer:
    """A process that takes batches, as a worker of Ray Train does."""

    def take(self, shard: Any, stream: StreamConfig | None, batch_size: int, num_warm: int) -> Rate:
        """`stream` None for the baseline. num_warm: images before the clock starts."""
        torch.set_num_threads(1)
        if stream is not None:
            keep_freed_memory(torch.device("cpu"))  # as pipelines.train_worker does
        taken = plain_stream.batches(shard, batch_size) if stream is None else _maps(shard, stream, batch_size)
        started, cpu, num_images, num_bytes, maps = 0.0, 0.0, 0, 0, []
        for maps in taken:
            num_images += len(maps[0])
            if num_images <= num_warm:
                started, cpu = time.perf_counter(), time.process_time()
            else:
                num_bytes += sum(level.nbytes for level in maps)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        num_timed = num_images - num_warm
        return Rate(
            images_per_s=num_timed / seconds,
            megabytes_per_s=num_bytes / seconds / 1e6,
            cpu_seconds_per_image=cpu / num_timed,
            checksum=sum(float(level.float().square().mean()) for level in maps),
        )


def _maps(shard: Any, stream: StreamConfig, batch_size: int) -> Iterator[list[Tensor]]:
    for item in training_batches(shard, stream, batch_size):
        yield [*item.batch.features.clip_pyramid, item.batch.features.sam]


def run_side(
    side: Side, config: DecoderConfig, crop: int, samples: int, batch_size: int, per_block: int, num_warm: int
) -> Rate:
    import ray

    if side == "baseline":
        stream, data = None, plain_stream.dataset(config, crop, samples, per_block)
    else:
        # Of the stream's config, taking batches reads block size, mode and dtype only; no encoder is built.
        source = EncoderSource.of_model("frozenseg/miniature/model")
        stream = StreamConfig(shards="", encoders=source, codec=side, dtype="bfloat16", encoder_batch=per_block)
        arguments = {"config": config, "crop": crop, "codec": side, "per_block": per_block}
        data = encoder_pool(row_numbers(samples, stream), stream, ReadyFeatures, arguments)
    (shard,) = data.streaming_split(1, equal=True)
    trainer = ray.remote(Trainer).options(num_cpus=1).remote()
    try:
        return ray.get(trainer.take.remote(shard, stream, batch_size, num_warm))
    finally:
        ray.kill(trainer)


def memcpy_rate(megabytes: int = 256) -> float:
    """MB/s of one thread that copies between two arrays that it has touched before."""
    source, target = np.ones(megabytes * 10**6, dtype=np.uint8), np.ones(megabytes * 10**6, dtype=np.uint8)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        np.copyto(target, source)
        seconds.append(time.perf_counter() - started)
    return megabytes / min(seconds)


def ratios(rates: list[Rate], baseline: list[Rate]) -> str:
    each = [a.images_per_s / b.images_per_s for a, b in zip(rates, baseline, strict=True)]
    return f"{statistics.median(each):.2f}x ({min(each):.2f} to {max(each):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=64, help="images per side and round, the first 16 not timed")
    parser.add_argument("--batch", type=int, default=2, help="images of a training step")
    parser.add_argument("--per-block", type=int, default=1, help="images of an actor's call, on all sides")
    parser.add_argument("--crop", type=int, default=1024)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    config = DecoderConfig()
    rates: dict[Side, list[Rate]] = {side: [] for side in SIDES}
    copied = [memcpy_rate()]
    ray_options = RayOptions(num_cpus=4, num_gpus=0, dashboard=False, object_store_mb=2000 * options.per_block)
    with ray_session.session(options=ray_options):
        for number in range(options.rounds):
            for side in SIDES:
                rate = run_side(
                    side, config, options.crop, options.samples, options.batch, options.per_block, num_warm=16
                )
                rates[side].append(rate)
                print(f"round {number}: {side:8} {rate}", flush=True)
            copied.append(memcpy_rate())
    sums = {side: {rate.checksum for rate in found} for side, found in rates.items()}
    (expected,) = sums["baseline"]
    assert sums["bfloat16"] == {expected}, "the same features must arrive"
    assert all(abs(found / expected - 1) < 1e-3 for found in sums["uint8"]), "8 bit must be as close as it states"
    print(f"bfloat16 against the baseline: {ratios(rates['bfloat16'], rates['baseline'])} (target 2x)")
    print(f"uint8 against the baseline: {ratios(rates['uint8'], rates['baseline'])} images/s (target 3x)")
    print(f"memcpy: {min(copied):.0f} to {max(copied):.0f} MB/s")
    if options.json is not None:
        record = {side: [dataclasses.asdict(rate) for rate in found] for side, found in rates.items()}
        options.json.write_text(json.dumps({**record, "memcpy_mb_per_s": copied}, indent=1) + "\n")


if __name__ == "__main__":
    main()

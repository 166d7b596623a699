"""The feature stream from an encoder actor to a trainer, against plain `map_batches` -> `iter_torch_batches`.

    python -m benchmarks.stream_throughput [--rounds 5] [--samples 384] [--batch 4] [--encoder-batch 1] [--same-blocks]

The actor has its features ready (of the sizes of ConvNeXt-L and SAM at `--crop`, 49 MB an image in bfloat16 at 1024),
so that only the way to the trainer is timed: into the object store, out of it in another process by `streaming_split`,
as Ray Train's workers take it, and into batches of torch tensors in bfloat16. Three sides in turns: the baseline, ours
in bfloat16 (the same bytes), ours in 8 bit (decoded to what the baseline delivers). The clock of each starts after 128
images, when the actor is up and both processes have seen the pages of Ray's memory that they use (3 GB in 8 bit): the
kernel takes 20 to 80 ms to hand out the pages of an image for the first time, copying them takes 5. Ratios are of rates
within a round; all sides must deliver the same values (8 bit: within its error).

Nothing is coded while the clock runs, on no side: a real encoder writes each feature once into what is handed to Ray,
whether that holds one image or four.

The baseline is the pipeline as one would first write it: `map_batches` with the encoder's batch (one image a call) and
`iter_torch_batches` with the trainer's batch (4, as in the paper's recipe). Ray Data joins what the calls of a task
yield into blocks of up to 128 MiB, 3 images of 1024, and the trainer's batches out of those. Ours has the same encoder
batch and the same trainer's batch, with the blocks that `StreamConfig` makes of them: a trainer's batch each in
bfloat16, two in 8 bit, which take no more room. That is where most of the gain comes from: `--same-blocks` gives ours
blocks of one encoder batch, and with `--encoder-batch 4` besides, both sides have blocks of 4.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.baselines import plain_stream
from benchmarks.ready_features import ReadyFeatures
from frozenseg.data import JitterConfig
from frozenseg.decoder import DecoderConfig
from frozenseg.memory import keep_freed_memory
from pipelines import ray_session
from pipelines.encoder_pool import EncoderSource
from pipelines.ray_session import RayOptions
from pipelines.stream import encoder_pool, row_numbers, training_batches
from pipelines.stream_config import StreamConfig, batches_that_share

Side = Literal["baseline", "bfloat16", "uint8"]
SIDES: tuple[Side, ...] = ("baseline", "bfloat16", "uint8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Fields: crop; samples: images of a side and round; batch: of the trainer; encoder_batch: images of an actor's
    call; same_blocks: ours packs no more than that into a block; num_warm: images before the clock starts."""

    crop: int
    samples: int
    batch: int
    encoder_batch: int
    same_blocks: bool
    num_warm: int = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What one side did in one round.

    Fields: cpu_seconds_per_image: of the trainer's process; all_cpu_seconds_per_image: of all of Ray's: actor,
    scheduling process, raylet and trainer; checksum: of the last batch.
    """

    images_per_s: float
    megabytes_per_s: float
    cpu_seconds_per_image: float
    all_cpu_seconds_per_image: float
    checksum: float

    def __str__(self) -> str:
        return (
            f"{self.images_per_s:6.1f} images/s, {self.megabytes_per_s:6.0f} MB/s delivered, "
            f"{1000 * self.cpu_seconds_per_image:5.1f} ms of the trainer's CPU an image, "
            f"{1000 * self.all_cpu_seconds_per_image:5.1f} of all processes'"
        )


class SessionCpu:
    """CPU seconds of all processes of this Ray session since `start`, of ended ones up to the last look."""

    def start(self) -> None:
        self._first: dict[int, float] = self._seconds()
        self._last = dict(self._first)

    def look(self) -> float:
        self._last.update(self._seconds())
        return sum(seconds - self._first.get(pid, 0.0) for pid, seconds in self._last.items())

    @staticmethod
    def _seconds() -> dict[int, float]:
        raylet = psutil.Process(os.getppid())
        found = {}
        for process in (raylet, *raylet.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                found[process.pid] = float(times.user + times.system)
        return found


class Trainer:
    """A process that takes batches, as a worker of Ray Train does."""

    def take(self, shard: Any, stream: StreamConfig | None, batch_size: int, num_warm: int) -> Rate:
        """`stream` None for the baseline. num_warm: images before the clock starts."""
        torch.set_num_threads(1)
        if stream is not None:
            keep_freed_memory(torch.device("cpu"))  # as pipelines.train_worker does
        taken = plain_stream.batches(shard, batch_size) if stream is None else _maps(shard, stream, batch_size)
        started, cpu, num_images, num_bytes, maps = 0.0, 0.0, 0, 0, []
        session, all_cpu = SessionCpu(), 0.0
        for maps in taken:
            num_images += len(maps[0])
            if num_images <= num_warm:
                session.start()
                started, cpu = time.perf_counter(), time.process_time()
            else:
                num_bytes += sum(level.nbytes for level in maps)
                all_cpu = session.look()
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        num_timed = num_images - num_warm
        return Rate(
            images_per_s=num_timed / seconds,
            megabytes_per_s=num_bytes / seconds / 1e6,
            cpu_seconds_per_image=cpu / num_timed,
            all_cpu_seconds_per_image=all_cpu / num_timed,
            checksum=sum(float(level.float().square().mean()) for level in maps),
        )


def _maps(shard: Any, stream: StreamConfig, batch_size: int) -> Iterator[list[Tensor]]:
    for item in training_batches(shard, stream, batch_size):
        yield [*item.batch.features.clip_pyramid, item.batch.features.sam]


def stream_config(side: Literal["bfloat16", "uint8"], sizes: Sizes) -> StreamConfig:
    """Of its config, taking batches reads block size, mode and dtype only; no encoder is built."""
    source = EncoderSource.of_model("frozenseg/miniature/model")
    source = dataclasses.replace(source, spec=dataclasses.replace(source.spec, decoder=DecoderConfig()))
    return StreamConfig(
        shards="",
        encoders=source,
        jitter=JitterConfig(crop_size=sizes.crop),
        codec=side,
        dtype="bfloat16",
        encoder_batch=sizes.encoder_batch,
        batch_size=sizes.batch,
        block_images=sizes.encoder_batch if sizes.same_blocks else None,
        batches_per_block=batches_that_share(sizes.batch),
    )


def run_side(side: Side, sizes: Sizes) -> Rate:
    import ray

    config = DecoderConfig()
    if side == "baseline":
        stream, data = None, plain_stream.dataset(config, sizes.crop, sizes.samples, sizes.encoder_batch)
    else:
        stream = stream_config(side, sizes)
        arguments = {"config": config, "crop": sizes.crop, "codec": side, "block_images": stream.images_per_block}
        data = encoder_pool(row_numbers(sizes.samples, stream), stream, ReadyFeatures, arguments)
    (shard,) = data.streaming_split(1, equal=True)
    trainer = ray.remote(Trainer).options(num_cpus=1).remote()
    try:
        return ray.get(trainer.take.remote(shard, stream, sizes.batch, sizes.num_warm))
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
    """By the clock and, which other work on the machine disturbs less, in CPU time of all processes."""

    def text(each: list[float]) -> str:
        return f"{statistics.median(each):.2f}x ({min(each):.2f} to {max(each):.2f})"

    pairs = list(zip(rates, baseline, strict=True))
    by_clock = text([a.images_per_s / b.images_per_s for a, b in pairs])
    return (
        f"{by_clock}; in CPU time {text([b.all_cpu_seconds_per_image / a.all_cpu_seconds_per_image for a, b in pairs])}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=384, help="images per side and round, the first 128 not timed")
    parser.add_argument("--batch", type=int, default=4, help="images of a training step, on all sides")
    parser.add_argument("--encoder-batch", type=int, default=1, help="images of an actor's call, on all sides")
    parser.add_argument(
        "--same-blocks",
        action="store_true",
        help="ours packs no more than that into a block; the baseline has no such choice",
    )
    parser.add_argument("--crop", type=int, default=1024)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sizes = Sizes(
        crop=options.crop,
        samples=options.samples,
        batch=options.batch,
        encoder_batch=options.encoder_batch,
        same_blocks=options.same_blocks,
    )
    ours = {side: stream_config(side, sizes).images_per_block for side in SIDES if side != "baseline"}
    print(f"trainer's batch {sizes.batch}; images a call of the encoder {sizes.encoder_batch}, a block of ours {ours}")
    rates: dict[Side, list[Rate]] = {side: [] for side in SIDES}
    copied = [memcpy_rate()]
    for number in range(options.rounds):
        # A session a round: what earlier processes left of Ray's memory, in pieces, makes later ones slower.
        with ray_session.session(options=RayOptions(num_cpus=4, num_gpus=0, dashboard=False, object_store_mb=3000)):
            for side in SIDES:
                rates[side].append(run_side(side, sizes))
                print(f"round {number}: {side:8} {rates[side][-1]}", flush=True)
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

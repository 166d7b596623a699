"""What the feature stream is doing, as the one who takes from it sees it: rates, pool size, queue.

Every block carries how long it was worked on, by whom, and when it was finished, so that nothing has to ask the stages
and nothing of Ray's inner state is read. A trainer sums that up every few seconds: a line, a record, gauges for Ray's
dashboard.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.columns import ENCODE_SECONDS, ENCODER, IMAGE_ID, MADE_AT, READ_SECONDS, Columns

EVERY_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamReport:
    """A stretch of time at one trainer. Another trainer of the same run sees other images.

    Fields: time: its end, seconds since 1970; seconds: its length; images_per_s, megabytes_per_s: taken by this
    trainer; waiting_images: finished and not yet taken, on average, for this trainer (Little's law: the sum of their
    waits over the stretch's length; clocks of two machines may differ, so less than zero counts as zero);
    num_encoders: different actors that the images came from; encoder_busy: share of the time that those worked, for all
    trainers; read_seconds, encode_seconds: of one worker, per image.
    """

    time: float
    seconds: float
    images_per_s: float
    megabytes_per_s: float
    waiting_images: float
    num_encoders: int
    encoder_busy: float
    read_seconds: float
    encode_seconds: float

    def __str__(self) -> str:
        pool = f", {self.num_encoders} encoder(s) {self.encoder_busy:.0%} busy" if self.num_encoders else ""
        return (
            f"stream: {self.images_per_s:.1f} images/s, {self.megabytes_per_s:.1f} MB/s, "
            f"{self.waiting_images:.1f} images waiting{pool}, per image: reading {1000 * self.read_seconds:.0f} ms, "
            f"encoding {1000 * self.encode_seconds:.0f} ms"
        )


def stamped(
    work: Callable[[dict[str, npt.NDArray[Any]]], Columns], name: str
) -> Callable[[dict[str, npt.NDArray[Any]]], Columns]:
    """A stage that adds to its block how long it worked per image, under `name`, and when it was done."""

    def run(block: dict[str, npt.NDArray[Any]]) -> Columns:
        started = time.perf_counter()
        made = work(block)
        num_rows = len(made[IMAGE_ID])
        seconds = (time.perf_counter() - started) / num_rows
        return {**made, name: np.full(num_rows, seconds), MADE_AT: np.full(num_rows, time.time())}

    return run


def worker_column(num_rows: int) -> npt.NDArray[Any]:
    """Which process, on which machine."""
    return np.array([f"{socket.gethostname()}:{os.getpid()}"] * num_rows)


class StreamWatch:
    """Looks at every block that a trainer takes.

    Args:
        world_size: trainers that share the pool.
        report: takes what a stretch of `every_s` seconds came to.
    """

    def __init__(
        self, world_size: int, report: Callable[[StreamReport], None], *, every_s: float = EVERY_S,
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._world_size, self._report, self._every_s, self._clock = world_size, report, every_s, clock
        self._start()

    def _start(self) -> None:
        self._since = self._clock()
        self._num_images = self._num_bytes = 0
        self._waited = self._reading = self._encoding = 0.0
        self._encoders: set[str] = set()

    def look_at(self, block: Mapping[str, npt.NDArray[Any]]) -> None:
        """A block of the feature stream, just taken."""
        now = self._clock()
        self._num_images += len(block[IMAGE_ID])
        self._num_bytes += sum(values.nbytes for values in block.values())
        self._waited += float(np.maximum(now - block[MADE_AT], 0.0).sum())
        self._reading += float(block[READ_SECONDS].sum())
        if ENCODER in block:
            self._encoding += float(block[ENCODE_SECONDS].sum())
            self._encoders.update(map(str, block[ENCODER]))
        if now - self._since >= self._every_s:
            self._report(self._sum_up(now))
            self._start()

    def _sum_up(self, now: float) -> StreamReport:
        seconds, num_encoders = now - self._since, len(self._encoders)
        return StreamReport(
            time=now,
            seconds=seconds,
            images_per_s=self._num_images / seconds,
            megabytes_per_s=self._num_bytes / 1e6 / seconds,
            waiting_images=self._waited / seconds,
            num_encoders=num_encoders,
            encoder_busy=self._encoding * self._world_size / seconds / num_encoders if num_encoders else 0.0,
            read_seconds=self._reading / self._num_images,
            encode_seconds=self._encoding / self._num_images,
        )


class StreamRecorder:
    """Appends each report to a JSON lines file and sets Ray's gauges `frozenseg_stream_*`, one series a rank.

    Args:
        write: takes a line for people; None for ranks that should be silent.
    """

    def __init__(self, path: Path, rank: int, write: Callable[[str], None] | None) -> None:
        from ray.util.metrics import Gauge

        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._tags, self._write = path, {"rank": str(rank)}, write
        names = (field.name for field in dataclasses.fields(StreamReport) if field.name not in ("time", "seconds"))
        self._gauges = {name: Gauge(f"frozenseg_stream_{name}", tag_keys=("rank",)) for name in names}

    def __call__(self, report: StreamReport) -> None:
        record = dataclasses.asdict(report)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        for name, gauge in self._gauges.items():
            gauge.set(record[name], tags=self._tags)
        if self._write is not None:
            self._write(str(report))

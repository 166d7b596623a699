"""LitData: run by benchmarks/read_shards.py in an environment that has it.

Orders: `sequential` and `shuffle`, its iteration; `indexed`, its access by number, in an order of our own.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from litdata import StreamingDataset, optimize
from reading import SHARD_BYTES, Sample, samples_of_tars, serve

COLUMNS = ("id", "image", "panoptic", "segments")


def _samples(folder: str) -> Iterator[dict[str, Any]]:
    for key, *parts in samples_of_tars(Path(folder)):
        # Text as bytes, too: LitData looks on the disk for a file of the name of a text.
        yield dict(zip(COLUMNS, (key.encode(), *parts), strict=True))


def write(source: Path, target: Path) -> None:
    optimize(fn=_samples, inputs=[str(source)], output_dir=str(target), chunk_bytes=SHARD_BYTES, num_workers=1)


@lru_cache(maxsize=8)
def _dataset(target: str, is_shuffled: bool) -> Any:
    # Decoding a window at once, its default, is meant for neighbours: it makes access by number 80 times slower, and
    # the shuffle of large samples 5 times.
    return StreamingDataset(target, shuffle=is_shuffled, seed=0, batch_decode=False)


def read(target: str, order: str, epoch: int) -> Iterator[Sample]:
    data = _dataset(target, order == "shuffle")
    if order == "indexed":
        numbers = list(range(len(data)))
        random.Random(epoch).shuffle(numbers)
        samples: Any = map(data.__getitem__, numbers)
    else:
        samples = data
    for sample in samples:
        # It gives views of a mapped file, of which nothing has been read yet.
        key, image, panoptic, segments = (bytes(sample[name]) for name in COLUMNS)
        yield key.decode(), image, panoptic, segments


if __name__ == "__main__":
    serve({"litdata": version("litdata"), "torch": version("torch")}, write, read)

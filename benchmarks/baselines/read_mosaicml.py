"""MosaicML streaming: run by benchmarks/read_shards.py in an environment that has it.

Orders: `sequential` and `shuffle`, its iteration; `indexed`, its access by number, in an order of our own.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from reading import SHARD_BYTES, Sample, samples_of_tars, serve
from streaming import MDSWriter, StreamingDataset

COLUMNS = {"id": "str", "image": "bytes", "panoptic": "bytes", "segments": "bytes"}


def write(source: Path, target: Path) -> None:
    with MDSWriter(out=str(target), columns=COLUMNS, size_limit=SHARD_BYTES) as writer:
        for values in samples_of_tars(source):
            writer.write(dict(zip(COLUMNS, values, strict=True)))


@lru_cache(maxsize=8)
def _dataset(target: str, is_shuffled: bool) -> Any:
    # Local files only, no limit of the cache, one canonical node: nothing of what it can do for many readers.
    return StreamingDataset(
        local=target, shuffle=is_shuffled, shuffle_seed=0, batch_size=1, num_canonical_nodes=1, predownload=1_000_000
    )


def read(target: str, order: str, epoch: int) -> Iterator[Sample]:
    data = _dataset(target, order == "shuffle")
    if order == "indexed":
        numbers = list(range(len(data)))
        random.Random(epoch).shuffle(numbers)
        samples: Any = map(data.__getitem__, numbers)
    else:
        samples = data
    for sample in samples:
        yield sample["id"], sample["image"], sample["panoptic"], sample["segments"]


if __name__ == "__main__":
    serve({"mosaicml-streaming": version("mosaicml-streaming"), "torch": version("torch")}, write, read)

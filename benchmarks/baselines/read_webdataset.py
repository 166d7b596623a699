"""webdataset's own loader, without decoding: run by benchmarks/read_shards.py in an environment that has it.

Orders: `sequential`; `shuffle`, its seeded buffer of 1000 samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import webdataset as wds
from reading import SHARD_BYTES, Sample, samples_of_tars, serve


def write(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    with wds.ShardWriter(str(target / "%06d.tar"), maxsize=SHARD_BYTES, verbose=0) as writer:
        for key, image, panoptic, segments in samples_of_tars(source):
            writer.write({"__key__": key, "jpg": image, "panoptic.png": panoptic, "segments.json": segments})


def read(target: str, order: str, epoch: int) -> Iterator[Sample]:
    tars = sorted(str(path) for path in Path(target).glob("*.tar"))
    if order == "shuffle":
        data = wds.WebDataset(tars, shardshuffle=len(tars), detshuffle=True, seed=epoch)
        data = data.compose(wds.detshuffle(bufsize=1000, initial=1000, seed=epoch))
    else:
        data = wds.WebDataset(tars, shardshuffle=False)
    for sample in data:
        yield sample["__key__"], sample["jpg"], sample["panoptic.png"], sample["segments.json"]


if __name__ == "__main__":
    serve({"webdataset": version("webdataset")}, write, read)

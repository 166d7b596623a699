"""Reading shards, against webdataset's loader, MosaicML streaming and LitData on the same samples.

    python -m benchmarks.read_shards [--samples 2000] [--rounds 5] [--environments FOLDER] [--json FILE]

Two sets: scenes of the miniature world (JPEG, panoptic PNG and segments), and the same with incompressible JPEGs of
150 KB. Each library writes them in its own format, in files of 64 MB. Then each reads them in a process of its own, in
turns: one process, one thread, nothing decoded, files in the page cache; the first round is not counted. Ours runs with
what it always checks: sizes, every header's checksum, order and ids; `verified` adds the sha256 of every tar. `mapped`
is ours with `ShardReader(..., mapped=True)`, which LitData does always.

Orders: `sequential`; `shuffle`, each library's own seeded shuffle: for webdataset a buffer of 1000 samples, for LitData
within chunks, for MosaicML within blocks, for ours a permutation of the whole set; `indexed`, access by number in a
permutation of the whole set, where a library has it. Ratios are of rates within a round; CPU times count the threads
that a library starts. The rivals run in environments of their own, made at the first run (several GB for PyTorch), in
their newest versions.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.baselines.reading import SHARD_BYTES, Sample, serve
from benchmarks.environments import environment_with
from frozenseg.miniature import encoded_sample, train_scenes, training_vocabulary
from frozenseg.types import EncodedSample, ShardManifest
from shards import FORMAT_VERSION, ShardReader, Storage, encode_sample, epoch_order, write_manifest, write_shard_to

OURS = "frozenseg"
RIVALS = {"webdataset": "webdataset", "mosaicml": "mosaicml-streaming", "litdata": "litdata"}
ORDERS = {
    OURS: ("sequential", "shuffle", "mapped-sequential", "mapped-shuffle", "verified"),
    "webdataset": ("sequential", "shuffle"),
    "mosaicml": ("sequential", "shuffle", "indexed"),
    "litdata": ("sequential", "shuffle", "indexed"),
}
SETS = {"miniature": 0, "large": 150_000}
"""Name: bytes of an incompressible JPEG in the place of the scene's, 0 for the scene's own."""


def make_samples(num_samples: int, jpeg_bytes: int) -> Iterator[EncodedSample]:
    vocabulary, random = training_vocabulary(), np.random.default_rng(0)
    for number, scene in enumerate(train_scenes(num_samples, 0, 0)):
        sample = encoded_sample(scene, f"train-{number:06d}", vocabulary)
        yield replace(sample, image_bytes=b"\xff\xd8\xff" + random.bytes(jpeg_bytes)) if jpeg_bytes else sample


def write_ours(address: Path, num_samples: int, jpeg_bytes: int) -> None:
    storage, files = Storage(address), []
    part: list[EncodedSample] = []
    size = 0

    def close() -> None:
        files.append(write_shard_to(storage, f"shard-{len(files):06d}.tar", part))
        part.clear()

    for sample in make_samples(num_samples, jpeg_bytes):
        length = sum(1024 + len(data) for _, data in encode_sample(sample))
        if part and size + length > SHARD_BYTES:
            close()
            size = 0
        part.append(sample)
        size += length
    close()
    vocabulary = training_vocabulary()
    write_manifest(
        storage,
        ShardManifest(
            format_version=FORMAT_VERSION,
            files=tuple(files),
            columns=("jpg", "panoptic.png", "segments.json"),
            vocabulary=vocabulary,
            vocabulary_hash=vocabulary.content_hash,
            source={"kind": "benchmark"},
            skipped=(),
        ),
    )


@lru_cache(maxsize=8)
def _reader(target: str, mapped: bool) -> ShardReader:
    return ShardReader(target, mapped)


def read_ours(target: str, order: str, epoch: int) -> Iterator[Sample]:
    reader = _reader(target, order.startswith("mapped"))
    if order.endswith("shuffle"):
        for index in epoch_order(len(reader), 0, epoch).tolist():
            yield reader.raw(index)
        return
    for file in reader.manifest.files:
        if order == "verified":
            reader.verify(file)
        yield from reader.read_raw(file)


class Reader:
    """A process that reads with one library, until it is closed."""

    def __init__(self, name: str, python: Path, scratch: Path) -> None:
        script = Path(__file__).with_name("baselines") / f"read_{name}.py"
        command = [sys.executable, __file__, "--serve"] if name == OURS else [str(python), str(script)]
        self.name = name
        # Some leave locks and caches in the temporary folder.
        environment = os.environ | {"TMPDIR": str(scratch)}
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.versions = self._answer()

    def close(self) -> None:
        _open(self._process.stdin).close()
        self._process.wait()
        _open(self._process.stdout).close()

    def ask(self, *words: object) -> dict[str, Any]:
        stream = _open(self._process.stdin)
        stream.write(shlex.join(str(word) for word in words) + "\n")
        stream.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = _open(self._process.stdout).readline()
        if not line:
            raise RuntimeError(f"the reader of {self.name} ended with exit code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _open(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """One reading of the whole set."""

    samples_per_s: float
    samples_per_cpu_s: float


def compare(readers: list[Reader], folder: Path, name: str, rounds: int) -> dict[str, list[Rate]]:
    """`library order` -> the rates of each round; every library in turn, the first round left out."""
    found: dict[str, list[Rate]] = {}
    for number in range(rounds + 1):
        for order in ("sequential", "mapped-sequential", "shuffle", "mapped-shuffle", "indexed", "verified"):
            for reader in readers:
                if order not in ORDERS[reader.name]:
                    continue
                took = reader.ask("read", folder / name / reader.name, order, number)
                if number:
                    rate = Rate(
                        samples_per_s=took["num_samples"] / took["seconds"],
                        samples_per_cpu_s=took["num_samples"] / took["cpu_seconds"],
                    )
                    found.setdefault(f"{reader.name} {order}", []).append(rate)
    return found


def check_same(readers: list[Reader], folder: Path, name: str) -> None:
    """Every library must give the same bytes of every sample, in every order."""
    expected: dict[str, str] = {}
    for reader in readers:
        for order in ORDERS[reader.name]:
            path = folder / "digests.json"
            reader.ask("digest", folder / name / reader.name, order, 0, path)
            pairs = json.loads(path.read_text())
            digests = dict(pairs)
            expected = expected or digests
            if len(pairs) != len(digests) or digests != expected:
                raise RuntimeError(f"{name}: {reader.name} ({order}) gives other samples than {readers[0].name}")


def table(found: dict[str, list[Rate]]) -> str:
    """A line for each library and order: samples/s, samples per CPU second, and how many times as fast ours is, by the
    clock and in CPU time, unmapped and mapped."""
    lines = []
    for key, rates in found.items():
        library, order = key.split()
        wall = statistics.median(rate.samples_per_s for rate in rates)
        cpu = statistics.median(rate.samples_per_cpu_s for rate in rates)
        line = f"{library:10} {order:17} {wall:7.0f} samples/s {cpu:7.0f} a CPU second"
        for kind in ("", "mapped-") if library != OURS else ():
            ours = found[f"{OURS} {kind}{'shuffle' if order == 'indexed' else order}"]
            pairs = list(zip(ours, rates, strict=True))
            line += (
                f" | {kind}ours {_ratio([a.samples_per_s / b.samples_per_s for a, b in pairs])}"
                f", CPU {_ratio([a.samples_per_cpu_s / b.samples_per_cpu_s for a, b in pairs])}"
            )
        lines.append(line)
    return "\n".join(lines)


def _ratio(each: list[float]) -> str:
    return f"{statistics.median(each):.2f}x ({min(each):.2f} to {max(each):.2f})"


def run(num_samples: int, rounds: int, environments: Path, folder: Path) -> dict[str, Any]:
    """Writes the sets below `folder`, checks and times all readers, prints the tables."""
    scratch = folder / "scratch"
    scratch.mkdir()
    readers = [Reader(OURS, Path(sys.executable), scratch)]
    try:
        for name, package in RIVALS.items():
            readers.append(Reader(name, environment_with(environments / name, (package,)), scratch))
        versions = {key: value for reader in readers for key, value in reader.versions.items()}
        print(", ".join(f"{key} {value}" for key, value in versions.items()), flush=True)
        record: dict[str, Any] = {"versions": versions}
        for name, jpeg_bytes in SETS.items():
            write_ours(folder / name / OURS, num_samples, jpeg_bytes)
            for reader in readers[1:]:
                reader.ask("write", folder / name / OURS, folder / name / reader.name)
            check_same(readers, folder, name)
            num_bytes = sum(file.num_bytes for file in ShardReader(folder / name / OURS).manifest.files)
            print(
                f"\n{name}: {num_samples} samples, {num_bytes / num_samples / 1e3:.1f} KB each in our tars", flush=True
            )
            found = compare(readers, folder, name, rounds)
            print(table(found), flush=True)
            record[name] = {
                key: [[r.samples_per_s, r.samples_per_cpu_s] for r in rates] for key, rates in found.items()
            }
        return record
    finally:
        for reader in readers:
            reader.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--environments", type=Path, default=Path(tempfile.gettempdir()) / "frozenseg-benchmarks")
    parser.add_argument("--folder", type=Path, help="where the sets are written, by default a temporary folder")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve({OURS: version("frozenseg"), "python": sys.version.split()[0]}, _no_write, read_ours)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        record = run(options.samples, options.rounds, options.environments, Path(folder))
    if options.json is not None:
        options.json.write_text(json.dumps(record, indent=1) + "\n")


def _no_write(source: Path, target: Path) -> None:
    raise NotImplementedError(f"ours is the source: {source}, {target}")


if __name__ == "__main__":
    main()

"""What the readers of benchmarks/read_shards.py share, whatever environment they run in: the standard library only.

A reader is a process that takes one command a line from its standard input and answers with one line of JSON:
`write SOURCE TARGET`, `read TARGET ORDER EPOCH` and `digest TARGET ORDER EPOCH FILE`.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

Sample = tuple[str, bytes, bytes, bytes]
"""Id, image file, panoptic PNG, segments as JSON: as they lie in the files."""
SHARD_BYTES = 64_000_000
"""Of a file of each format, the rivals' own default."""
Write = Callable[[Path, Path], None]
Read = Callable[[str, str, int], Iterator[Sample]]


def samples_of_tars(folder: Path) -> Iterator[Sample]:
    """The samples of a folder of tars, in order, with nothing but the standard library: what each format is made of."""
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            members: dict[str, bytes] = {}
            key = ""
            for member in tar:
                sample_id, _, extension = member.name.partition(".")
                if members and sample_id != key:
                    yield key, members["jpg"], members["panoptic.png"], members["segments.json"]
                    members = {}
                file = tar.extractfile(member)
                assert file is not None
                key, members[extension] = sample_id, file.read()
            if members:
                yield key, members["jpg"], members["panoptic.png"], members["segments.json"]


def serve(versions: dict[str, str], write: Write, read: Read) -> None:
    """Answers commands until the input ends. versions: of the packages that read."""
    answers, sys.stdout = sys.stdout, sys.stderr  # some packages print

    def answer(record: dict[str, object]) -> None:
        answers.write(json.dumps(record) + "\n")
        answers.flush()

    answer(dict(versions))
    for line in sys.stdin:
        command, *rest = shlex.split(line)
        if command == "write":
            write(Path(rest[0]), Path(rest[1]))
            answer({})
        elif command == "read":
            answer(_timed(read(rest[0], rest[1], int(rest[2]))))
        else:
            samples = read(rest[0], rest[1], int(rest[2]))
            digests = [(key, hashlib.sha256(b"\0".join(parts)).hexdigest()) for key, *parts in samples]
            Path(rest[3]).write_text(json.dumps(digests))
            answer({})


def _timed(samples: Iterator[Sample]) -> dict[str, object]:
    num_samples = num_bytes = 0
    wall, cpu = time.perf_counter(), time.process_time()
    for _, image, panoptic, segments in samples:
        num_samples += 1
        num_bytes += len(image) + len(panoptic) + len(segments)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"num_samples": num_samples, "num_bytes": num_bytes, "seconds": wall, "cpu_seconds": cpu}

"""What labeling costs beside its encoders and decoder.

python -m benchmarks.labeling rate --images 24                    # against a plain loop, one worker each, in turns
python -m benchmarks.labeling pool-rate --images 64               # the same through a pool of Ray's
python -m benchmarks.labeling scaling --workers 1 8 64            # encoders that sleep, dealt parts by Ray Data
python -m benchmarks.labeling memory --images 1000000             # the driver's largest memory, invented labels
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.simulated_labels import SleepingActor, WritingActor
from frozenseg.data import decode_image
from frozenseg.vocabulary import load_vocabulary
from pipelines import ray_session
from pipelines.corpus import ImageReference, find_corpus, read_image_bytes
from pipelines.label import LabelActor, label, part_of
from pipelines.labeling.formats import LabelFormat
from pipelines.labeling.options import LabelOptions
from pipelines.ray_session import Need, RayOptions
from pipelines.segmenter_pool import PoolOptions, SegmenterSource, run_parts

VOCABULARY = "red button; green flag; water(stuff); brick(stuff)"
FORMATS: tuple[LabelFormat, ...] = ("coco-panoptic", "parquet")
_NUM_PARTS = 4


def rate(images: Path, count: int, rounds: int) -> dict[str, float]:
    """Images a second of the model alone over decoded images, and of the labeling actor over files, in turns."""
    source, vocabulary = SegmenterSource(model="miniature"), load_vocabulary(VOCABULARY)
    found = find_corpus(str(images))
    references = [found[i % len(found)] for i in range(count)]
    decoded = [decode_image(read_image_bytes(r), r.image_id) for r in references]
    plain: list[float] = []
    ours: list[float] = []
    with tempfile.TemporaryDirectory() as to:
        actor = LabelActor(source, LabelOptions(to=to, vocabulary=VOCABULARY, formats=FORMATS), to)
        actor(part_of(0, range(2), references))
        for number in range(1, rounds + 1):
            start = time.perf_counter()
            for image in decoded:
                actor.segmenter.predict_batch([image], vocabulary)
            middle = time.perf_counter()
            # Ids repeat where there are fewer files than images; files of one part are written once all the same.
            actor(part_of(number, range(count), references))
            plain.append(count / (middle - start))
            ours.append(count / (time.perf_counter() - middle))
    return _compared(plain, ours)


class TimedLabelActor(LabelActor):
    """Says when each part began and ended."""

    def __call__(self, part: dict[str, Any]) -> dict[str, Any]:
        start = time.time()
        return {**super().__call__(part), "start": start, "end": time.time()}


class PlainLoop:
    """The model alone over decoded images, in a process of Ray's as the pool's actors are (Ray runs those with less
    priority than a driver)."""

    def __init__(self, source: SegmenterSource, references: list[ImageReference]) -> None:
        self.images = [decode_image(read_image_bytes(r), r.image_id) for r in references]
        self.vocabulary = load_vocabulary(VOCABULARY)
        self.segmenter = source.build()
        self.segmenter.predict_batch([self.images[0]], self.vocabulary)

    def images_per_second(self) -> float:
        start = time.perf_counter()
        for image in self.images:
            self.segmenter.predict_batch([image], self.vocabulary)
        return len(self.images) / (time.perf_counter() - start)


def pool_rate(images: Path, images_per_part: int, rounds: int) -> dict[str, float]:
    """Images a second of a plain loop in an actor of Ray's, and of one actor of labeling's pool from the end of its
    first part to the end of its last, in turns. Both with one thread of torch's."""
    import ray

    source = SegmenterSource(model="miniature")
    found = find_corpus(str(images))
    references = [found[i % len(found)] for i in range(images_per_part)]
    loop = ray.remote(PlainLoop).options(num_cpus=1).remote(source, references)
    plain: list[float] = []
    ours: list[float] = []
    for _ in range(rounds):
        plain.append(ray.get(loop.images_per_second.remote()))
        with tempfile.TemporaryDirectory() as to:
            options = LabelOptions(to=to, vocabulary=VOCABULARY, formats=FORMATS)
            arguments = {"segmenter": source, "options": options, "to": to}
            parts = (part_of(number, range(images_per_part), references) for number in range(_NUM_PARTS))
            results = list(run_parts(TimedLabelActor, arguments, parts, _NUM_PARTS, PoolOptions()))
        ends = sorted(result["end"] for result in results)
        ours.append(images_per_part * (_NUM_PARTS - 1) / (ends[-1] - ends[0]))
    return _compared(plain, ours)


def _compared(plain: list[float], ours: list[float]) -> dict[str, float]:
    ratios = [o / p for o, p in zip(ours, plain, strict=True)]
    return {
        "plain, images/s": statistics.median(plain),
        "labeling, images/s": statistics.median(ours),
        "ratio": statistics.median(ratios),
        "lowest ratio": min(ratios),
        "highest ratio": max(ratios),
    }


def scaling(workers: int, seconds_per_part: float, rounds: int, threads: int) -> dict[str, float]:
    """Share of the time that sleeping encoders are busy, from when all are at work until the last part begins.

    Args:
        threads: encoders that share a process: 64 processes of Ray's would not fit a small machine's memory.
    """
    threads = min(workers, threads)
    actors = workers // threads
    num_parts = workers * rounds
    parts = ({"number": number, "images": [{"image_id": str(i)} for i in range(64)]} for number in range(num_parts))
    pool = PoolOptions(min_actors=actors, max_actors=actors, cpus=0.1, parts_at_once=threads)
    results = list(run_parts(SleepingActor, {"seconds_per_part": seconds_per_part}, parts, num_parts, pool))
    starts, ends = sorted(r["start"] for r in results), sorted(r["end"] for r in results)
    # The window: after every worker's first start, before any part is missing to keep them all busy.
    begin, end = starts[workers - 1], starts[-1]
    busy = sum(max(0.0, min(r["end"], end) - max(r["start"], begin)) for r in results)
    return {
        "workers": workers,
        "parts": num_parts,
        "efficiency": busy / (workers * (end - begin)),
        "parts/s": sum(begin <= e <= end for e in ends) / (end - begin),
    }


def memory(count: int, images_per_part: int, *, with_ray: bool) -> dict[str, float]:
    """Largest resident memory of this process, the driver, in GB, for a corpus of invented names. Without Ray the parts
    are written here, too."""
    references = [
        ImageReference(
            image_id=f"album{i // 1000:05d}-photo{i:08d}",
            address=f"s3://bucket/album{i // 1000:05d}/photo{i:08d}.jpg",
            file_name=f"album{i // 1000:05d}/photo{i:08d}.jpg",
        )
        for i in range(count)
    ]
    start = time.perf_counter()
    with ExitStack() as stack:
        to = stack.enter_context(tempfile.TemporaryDirectory())
        if with_ray:
            stack.enter_context(ray_session.session([Need(name="a")], RayOptions(dashboard=False)))
        options = LabelOptions(to=to, vocabulary=VOCABULARY, images_per_part=images_per_part)
        pool = PoolOptions(in_process=not with_ray)
        label(SegmenterSource(model="miniature"), references, options, pool, actor=WritingActor)
        merged = (Path(to) / "coco-panoptic" / "panoptic.json").stat().st_size / 1e9
        review = (Path(to) / "review.html").stat().st_size / 1e9
    return {
        "images": count,
        "driver, GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "panoptic.json, GB": merged,
        "review.html, GB": review,
        "seconds": time.perf_counter() - start,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("rate", "pool-rate", "scaling", "memory"))
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--folder", type=Path, default=Path("docs/images/scene.png"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds-per-part", type=float, default=6.4)
    parser.add_argument("--no-ray", action="store_true", help="memory: the actor in this process")
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--images-per-part", type=int, default=64)
    arguments = parser.parse_args()
    results: list[dict[str, float]] = []
    match arguments.what:
        case "rate":
            results.append(rate(arguments.folder, arguments.images, arguments.rounds))
        case "pool-rate":
            with ray_session.session([Need(name="a")], RayOptions(dashboard=False, num_cpus=2)):
                results.append(pool_rate(arguments.folder, arguments.images, arguments.rounds))
        case "memory":
            results.append(memory(arguments.images, arguments.images_per_part, with_ray=not arguments.no_ray))
        case "scaling":
            with ray_session.session([Need(name="a")], RayOptions(dashboard=False, num_cpus=8)):
                for workers in arguments.workers:
                    results.append(scaling(workers, arguments.seconds_per_part, arguments.rounds, arguments.threads))
    for result in results:
        print(json.dumps({name: round(value, 4) for name, value in result.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

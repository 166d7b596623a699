"""A running server against a plain loop over the same model in this process, and against a second server.

serve run serve.app:build &
python -m benchmarks.serving --address http://127.0.0.1:8000 --images 64 --rounds 3 --threads 2

serve run serve.app:build model=DIR &
python -m benchmarks.serving --model DIR --image PHOTOGRAPH --vocabulary "person; sky(stuff)" --images 8 --threads 2

States, rounds interleaved and their median last:
- images/s of the server with several clients at once over those of the plain loop;
- with --other, the same over a second server's, e.g. one with `batch_pixels=4194304`, which batches on a CPU, too;
- for one request at a time (p50): how much longer it takes than the stages that the server itself times (decoding the
  image, the model, rendering), and how much longer than the same work done directly;
- what one forward pass of the encoders over several images saves against one pass each.
Both sides share the machine's cores: give the plain loop as many torch threads as the server's parts have together.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import torch

import frozenseg
from frozenseg.inference.segmenter import Segmenter, read_image
from frozenseg.memory import keep_freed_memory
from serve.answers import describe_segment, find_segments
from serve.parts import encode_together
from serve.schema import SegmentOptions
from serve.travel import prepare_image

ALONE_PER_ROUND = 16
WARM_UP = 8


def examples(client: httpx.Client, files: Sequence[Path], vocabulary: str) -> tuple[list[bytes], str]:
    """The images and the names to ask for; the server's own where none are given."""
    model = client.get("/v1/models").raise_for_status().json()["models"][0]
    images = [path.read_bytes() for path in files]
    images = images or [client.get(path).raise_for_status().content for path in model["examples"]]
    return images, vocabulary or model["suggested_vocabulary"]


def direct(segmenter: Segmenter, image: bytes, options: SegmentOptions) -> None:
    """What the server does for one image, without server."""
    prediction = segmenter(image, str(options.vocabulary))
    for segment in find_segments(prediction, options):
        describe_segment(segment, prediction.vocabulary)


def remote(client: httpx.Client, image: bytes, options: SegmentOptions) -> float:
    """The same over HTTP; the milliseconds that the server's own stages took."""
    data = {"options": json.dumps({"vocabulary": options.vocabulary})}
    answer = client.post("/v1/segment", files={"image": ("a", image)}, data=data).raise_for_status()
    return sum(float(part.partition(";dur=")[2]) for part in answer.headers["server-timing"].split(","))


def images_per_second(work: Sequence[bytes], run: Callable[[Sequence[bytes]], None]) -> float:
    started = time.perf_counter()
    run(work)
    return len(work) / (time.perf_counter() - started)


def encoder_gain(segmenter: Segmenter, images: Sequence[bytes], rounds: int) -> float:
    """Seconds of one pass each over seconds of one pass for all, median."""
    samples = [read_image(image) for image in images]
    prepared = [prepare_image(sample, segmenter.options) for sample in samples]
    ratios = []
    for _ in range(rounds):
        started = time.perf_counter()
        for one in prepared:
            encode_together(segmenter, [one])
        between = time.perf_counter()
        encode_together(segmenter, prepared)
        ratios.append((between - started) / (time.perf_counter() - between))
    return statistics.median(ratios)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", default="http://127.0.0.1:8000")
    parser.add_argument("--other", default="", help="address of a second server to compare with")
    parser.add_argument("--model", default="miniature", help="the one that the server has")
    parser.add_argument("--image", type=Path, nargs="*", default=[], help="files; without them the server's examples")
    parser.add_argument("--vocabulary", default="", help="names to ask for; without them the server's suggestion")
    parser.add_argument("--images", type=int, default=64, help="per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the plain loop")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    segmenter = frozenseg.load(arguments.model, device="cpu")
    # As the server's parts do: what is compared is the server, not the allocator.
    keep_freed_memory(segmenter.model.device)
    ratios, others, alone, over_http, beyond = [], [], [], [], []
    with (
        httpx.Client(base_url=arguments.address, timeout=600) as client,
        httpx.Client(base_url=arguments.other or arguments.address, timeout=600) as second,
        ThreadPoolExecutor(arguments.at_once) as pool,
    ):
        images, vocabulary = examples(client, arguments.image, arguments.vocabulary)
        options = SegmentOptions(vocabulary=vocabulary)
        work = [images[i % len(images)] for i in range(arguments.images)]

        def loop(batch: Sequence[bytes]) -> None:
            for image in batch:
                direct(segmenter, image, options)

        def through(server: httpx.Client) -> Callable[[Sequence[bytes]], None]:
            def send(batch: Sequence[bytes]) -> None:
                for _ in pool.map(lambda image: remote(server, image, options), batch):
                    pass

            return send

        for run in (loop, through(client), through(second)):
            run(work[:WARM_UP])
        for number in range(arguments.rounds):
            plain = images_per_second(work, loop)
            served = images_per_second(work, through(client))
            ratios.append(served / plain)
            line = f"round {number}: plain {plain:.1f} images/s, served {served:.1f} images/s, ratio {ratios[-1]:.2f}"
            if arguments.other:
                others.append(served / images_per_second(work, through(second)))
                line += f", over the other server {others[-1]:.2f}"
            print(line)
            for image in work[:ALONE_PER_ROUND]:
                started = time.perf_counter()
                direct(segmenter, image, options)
                between = time.perf_counter()
                stages = remote(client, image, options)
                alone.append(1000 * (between - started))
                over_http.append(1000 * (time.perf_counter() - between))
                beyond.append(over_http[-1] - stages)
    print(f"served / plain: median {statistics.median(ratios):.2f}")
    if others:
        print(f"served / the other server: median {statistics.median(others):.2f}")
    p50 = statistics.median(over_http)
    print(
        f"one request alone, p50: {p50:.1f} ms over HTTP, {statistics.median(beyond):.1f} ms beyond its stages, "
        f"{p50 - statistics.median(alone):+.1f} ms to direct"
    )
    gain = encoder_gain(segmenter, work[: arguments.at_once], arguments.rounds)
    print(f"encoders, {arguments.at_once} images in one pass against one each: {gain:.2f}x")
    return 0


if __name__ == "__main__":
    sys.exit(main())

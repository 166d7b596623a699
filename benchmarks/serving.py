"""A running server against a plain loop over the same model in this process.

serve run serve.app:build &
python -m benchmarks.serving --address http://127.0.0.1:8000 --images 64 --rounds 3

States images/s of both (the server with several clients at once, so that its encoder batches), their ratio per
round, rounds interleaved, and how much longer one request alone takes than the same work done directly (p50). Both
sides share the machine's cores: give the plain loop as many torch threads as the server's parts have together.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import torch

import frozenseg
from frozenseg.inference.segmenter import Segmenter
from serve.answers import describe_segment, find_segments
from serve.schema import SegmentOptions


def examples(client: httpx.Client) -> tuple[list[bytes], str]:
    """The server's example images and the names that go with them."""
    model = client.get("/v1/models").raise_for_status().json()["models"][0]
    return [client.get(path).raise_for_status().content for path in model["examples"]], model["suggested_vocabulary"]


def direct(segmenter: Segmenter, image: bytes, options: SegmentOptions) -> None:
    """What the server does for one image, without server."""
    prediction = segmenter(image, str(options.vocabulary))
    for segment in find_segments(prediction, options):
        describe_segment(segment, prediction.vocabulary)


def remote(client: httpx.Client, image: bytes, options: SegmentOptions) -> None:
    """The same over HTTP."""
    data = {"options": json.dumps({"vocabulary": options.vocabulary})}
    client.post("/v1/segment", files={"image": ("a", image)}, data=data).raise_for_status()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", default="http://127.0.0.1:8000")
    parser.add_argument("--images", type=int, default=64, help="per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the plain loop")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    segmenter = frozenseg.load("miniature", device="cpu")
    ratios, alone, over_http = [], [], []
    with httpx.Client(base_url=arguments.address, timeout=120) as client, ThreadPoolExecutor(arguments.at_once) as pool:
        images, vocabulary = examples(client)
        options = SegmentOptions(vocabulary=vocabulary)
        work = [images[i % len(images)] for i in range(arguments.images)]
        for image in images:
            direct(segmenter, image, options)
            remote(client, image, options)
        for number in range(arguments.rounds):
            started = time.perf_counter()
            for image in work:
                direct(segmenter, image, options)
            plain = len(work) / (time.perf_counter() - started)
            started = time.perf_counter()
            list(pool.map(lambda image: remote(client, image, options), work))
            served = len(work) / (time.perf_counter() - started)
            ratios.append(served / plain)
            print(f"round {number}: plain {plain:.1f} images/s, served {served:.1f} images/s, ratio {ratios[-1]:.2f}")
            for image in work[:16]:
                started = time.perf_counter()
                direct(segmenter, image, options)
                between = time.perf_counter()
                remote(client, image, options)
                alone.append(between - started)
                over_http.append(time.perf_counter() - between)
    p50 = statistics.median(over_http) - statistics.median(alone)
    print(f"served / plain: median {statistics.median(ratios):.2f}")
    print(
        f"one request alone: p50 {statistics.median(over_http) * 1000:.1f} ms over HTTP, {p50 * 1000:+.1f} ms to direct"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A server that batches on the encoder against the same server that doesn't, where batching pays.

    OMP_NUM_THREADS=1 python -m benchmarks.serving_batches [--clip convnext_xxlarge] [--side 32] [--rounds 3]

On a CPU an image of the usual size keeps a core busy, and a batch of several takes as long as one after the other. A
batch pays where a pass costs much beside the pixels: on a GPU, and here with a large CLIP and small pictures, when
reading the weights takes longer than the arithmetic: ConvNeXt-XXLarge (3.4 GB of them; with a small text tower of our
own, since four parts hold it) or RN50x64 (1.7 GB), whose decoder part reads 0.2 GB of weights for every image, too:
its attention pooling. Random weights and a small decoder without SAM, so that the encoder is what is measured. Two
applications in one Ray, with real HTTP requests, in turns: one encodes what is waiting together (`batch_pixels`), the
other one image a pass. Both hold the same model, and must give the same segments but for what rounding does to them.
About 19 GB of memory (RN50x64: 13).
"""

from __future__ import annotations

import argparse
import io
import json
import socket
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from frozenseg.decoder import DecoderConfig
from frozenseg.encoders import OpenClipConfig
from frozenseg.model import ClipReference, ModelSpec, WeightsSource, build_model, save_model
from frozenseg.model.presets import clip_widths

AT_ONCE = 32
"""Requests under way: more than an encoder takes into one pass, so that one is always waiting."""
PER_PASS = 32
CONVNEXT_XXLARGE = OpenClipConfig(
    name="convnext_xxlarge with a small text tower",
    embed_dim=1024,
    image_size=256,
    timm_trunk="convnext_xxlarge",
    text_width=256,
    text_heads=4,
    text_layers=2,
)
ENCODERS: dict[str, tuple[str | OpenClipConfig, tuple[int, int, int, int], int]] = {
    "convnext_xxlarge": (CONVNEXT_XXLARGE, (384, 768, 1536, 3072), 1024),
    "RN50x64-quickgelu": ("RN50x64-quickgelu", *clip_widths("RN50x64-quickgelu")),
}
"""Architecture, channels of its maps, width of its embeddings."""
VOCABULARY = "cat; dog; sky(stuff); grass(stuff)"


def write_model(folder: Path, clip: str, side: int) -> None:
    """A model folder that names its random weights by their seed; only the decoder's lie in it."""
    architecture, channels, width = ENCODERS[clip]
    decoder = DecoderConfig(
        clip_channels=channels,
        embedding_dim=width,
        sam_channels=0,
        hidden_dim=64,
        mask_dim=64,
        num_queries=10,
        num_heads=4,
        num_layers=3,
        feedforward_dim=128,
        pixel_decoder_layers=1,
        pixel_decoder_feedforward_dim=128,
        query_injector_layers=(),
        feature_injector_layers=(),
    )
    spec = ModelSpec(
        name="large-clip",
        clip=ClipReference(architecture=architecture, source="random", location="0"),
        decoder=decoder,
        decoder_is_random=True,
        inference={"shortest_side": side, "longest_side": side},
    )
    torch.manual_seed(0)
    save_model(build_model(spec, weights=WeightsSource.RANDOM), folder)


def pictures(count: int, side: int) -> list[bytes]:
    """JPEGs of blurred noise."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(buffer, "JPEG")
        found.append(buffer.getvalue())
    return found


def ask(client: httpx.Client, name: str, image: bytes) -> list[tuple[str, int]]:
    """(category, area) of the segments that application `name` finds."""
    form = {"options": json.dumps({"vocabulary": VOCABULARY, "task": "semantic"})}
    answer = client.post(f"/{name}/v1/segment", files={"image": ("a.jpg", image)}, data=form).raise_for_status()
    return sorted((segment["category"], segment["area"]) for segment in answer.json()["segments"])


def rate(client: httpx.Client, name: str, images: Sequence[bytes]) -> tuple[float, list[Any]]:
    """Images per second with `AT_ONCE` requests under way, and the answers."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        started = time.perf_counter()
        answers = list(pool.map(lambda image: ask(client, name, image), images))
        return len(images) / (time.perf_counter() - started), answers


def agreement(ours: Sequence[Any], theirs: Sequence[Any], side: int) -> float:
    """Share of pixels that have the same category, at least, by the areas of both sides' segments."""
    same = sum(
        min(area, dict(other).get(category, 0))
        for one, other in zip(ours, theirs, strict=True)
        for category, area in one
    )
    return same / (len(ours) * side * side)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", choices=sorted(ENCODERS), default="convnext_xxlarge")
    parser.add_argument("--side", type=int, default=32, help="of the pictures, and of what the model sees")
    parser.add_argument("--images", type=int, default=96, help="per server and round")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    from pipelines import ray_session

    side = arguments.side
    options = ray_session.RayOptions(num_cpus=8, num_gpus=0, object_store_mb=500, dashboard=False)
    with tempfile.TemporaryDirectory() as folder, ray_session.session(options=options):
        write_model(Path(folder) / "model", arguments.clip, side)
        from ray import serve

        from serve.app import build

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        serve.start(http_options={"host": "127.0.0.1", "port": port, "request_timeout_s": 300})
        settings = {"model": f"{folder}/model", "device": "cpu", "limits": {"timeout_s": 250.0}}
        try:
            for name, pixels in (("batched", PER_PASS * side * side), ("single", 1)):
                serve.run(build({**settings, "batch_pixels": pixels}), name=name, route_prefix=f"/{name}")
            images = pictures(arguments.images, side)
            with httpx.Client(
                base_url=f"http://127.0.0.1:{port}", timeout=300, limits=httpx.Limits(max_connections=AT_ONCE)
            ) as client:
                for name in ("batched", "single"):
                    rate(client, name, images[:AT_ONCE])
                ratios = []
                for number in range(arguments.rounds):
                    batched, ours = rate(client, "batched", images)
                    single, theirs = rate(client, "single", images)
                    ratios.append(batched / single)
                    print(
                        f"round {number}: batched {batched:.2f} images/s, one image a pass {single:.2f}, "
                        f"ratio {ratios[-1]:.2f}; same categories on {100 * agreement(ours, theirs, side):.1f} % "
                        "of the pixels",
                        flush=True,
                    )
        finally:
            serve.shutdown()
    print(f"batched / one image a pass: median {statistics.median(ratios):.2f} (target 3)")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Latency against the number of categories: 10 -> 1,200 should cost at most 1.3 times, once the text is cached.

Whole pictures through a whole model with random weights, runs interleaved, median of each. Usage:
    python benchmarks/categories.py [--side 512] [--runs 7] [--large]
`--large` is the published architecture (ConvNeXt-L, SAM ViT-B, 250 queries; 10 GB), else a small one of 250 queries.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings

import torch

from frozenseg.decoder import DecoderConfig
from frozenseg.encoders import OpenClipConfig, SamArchitecture
from frozenseg.inference.options import InferenceOptions
from frozenseg.inference.segmenter import Segmenter
from frozenseg.model import (
    ClipReference,
    ModelSpec,
    SamReference,
    WeightsSource,
    build_model,
    frozenseg_spec,
)
from frozenseg.types import Category, Vocabulary

COUNTS = (10, 1200)
TARGET = 1.3


def small_spec() -> ModelSpec:
    """ConvNeXt-T sized encoders, the published decoder's queries and layers: the hard case for a flat latency."""
    clip = OpenClipConfig(
        name="convnext_tiny-clip", embed_dim=768, image_size=224, timm_trunk="convnext_tiny", text_layers=2
    )
    sam = SamArchitecture(name="small-sam", img_size=512, dim=192, depth=4, heads=4, global_attn_indexes=(3,))
    return ModelSpec(
        name="small",
        clip=ClipReference(architecture=clip, source="random", location="0"),
        sam=SamReference(architecture=sam, source="random", location="0"),
        decoder=DecoderConfig(clip_channels=(96, 192, 384, 768)),
    )


def vocabulary(count: int) -> Vocabulary:
    """`count` categories of two names each."""
    return Vocabulary(
        categories=tuple(
            Category(name=f"thing {i}", synonyms=(f"object {i}",), is_thing=i % 2 == 0) for i in range(count)
        )
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--large", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    spec = frozenseg_spec() if arguments.large else small_spec()
    model = build_model(spec, weights=WeightsSource.RANDOM).eval()
    side = arguments.side
    segmenter = Segmenter(model, InferenceOptions(shortest_side=side, longest_side=2 * side))
    image = torch.randint(0, 256, (3, side, side), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    vocabularies = {count: vocabulary(count) for count in COUNTS}
    for words in vocabularies.values():
        segmenter(image, words).panoptic()  # fills the text cache, warms up
    times: dict[int, list[float]] = {count: [] for count in COUNTS}
    for _ in range(arguments.runs):
        for count, words in vocabularies.items():
            start = time.process_time()
            segmenter(image, words).panoptic()
            times[count].append(time.process_time() - start)
    medians = {count: statistics.median(values) for count, values in times.items()}
    for count, median in medians.items():
        print(f"{count:5d} categories: {median:.3f} CPU s (median of {arguments.runs})")
    ratio = medians[COUNTS[1]] / medians[COUNTS[0]]
    print(f"ratio {ratio:.2f}, target <= {TARGET}")
    return 0 if ratio <= TARGET else 1


if __name__ == "__main__":
    raise SystemExit(main())

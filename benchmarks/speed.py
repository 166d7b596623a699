"""Table 6 of the paper: parameters, and pictures a second one at a time, FrozenSeg beside FC-CLIP, runs interleaved.

    python benchmarks/speed.py [--large] [--device cuda] [--sides 800x1067 1024x2048] [--runs 5]

Weights are random: speed doesn't depend on them, but for the panoptic post-processing, which takes longest on noise.
`--large` is the published architecture (7 GB for both on a CPU); without it both models are small ones of the
same build, whose figures say nothing about the paper's. On a CPU one thread works and its processor time counts, which
other work on the machine disturbs less than the clock.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.categories import small_spec
from frozenseg.inference.options import InferenceOptions
from frozenseg.inference.segmenter import Segmenter
from frozenseg.model import ModelSpec, WeightsSource, build_model, frozenseg_spec
from frozenseg.model.presets import fcclip_spec
from frozenseg.vocabulary import load_vocabulary

COCO_SIDE, CITYSCAPES_SIDE = "800x1067", "1024x2048"
"""A 480 x 640 picture brought to 800 / 1333, and a Cityscapes picture at 1024 / 2560."""


def small_fcclip() -> ModelSpec:
    """The small model without SAM and injectors, which is FC-CLIP."""
    spec = small_spec()
    decoder = dataclasses.replace(spec.decoder, sam_channels=0, query_injector_layers=(), feature_injector_layers=())
    return dataclasses.replace(spec, name="small-fcclip", sam=None, decoder=decoder)


def counts(model: torch.nn.Module) -> tuple[int, int, int]:
    """Trained parameters, frozen ones, and those of the text tower among the frozen."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    text = sum(p.numel() for name, p in model.named_parameters() if not p.requires_grad and _is_text(name))
    return trained, frozen, text


def _is_text(name: str) -> bool:
    """Of CLIP's text tower. The temperature, which image and text share, is none of it."""
    return name.startswith("clip.") and ".visual." not in name and not name.endswith("logit_scale")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sides", nargs="+", default=[COCO_SIDE, CITYSCAPES_SIDE])
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    specs = (frozenseg_spec(), fcclip_spec()) if arguments.large else (small_spec(), small_fcclip())
    vocabulary = load_vocabulary("coco-panoptic")
    segmenters = {}
    for name, spec in zip(("FrozenSeg", "FC-CLIP"), specs, strict=True):
        model = build_model(spec, weights=WeightsSource.RANDOM).eval().to(arguments.device)
        trained, frozen, text = counts(model)
        print(f"{name} ({spec.name}): trained {trained:,}, frozen {frozen:,}, without the text tower {frozen - text:,}")
        segmenters[name] = Segmenter(model)
    for sides in arguments.sides:
        height, width = map(int, sides.split("x"))
        options = InferenceOptions(shortest_side=min(height, width), longest_side=max(height, width))
        image = torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
        times: dict[str, list[float]] = {name: [] for name in segmenters}
        for run in range(arguments.runs + 1):
            for name, segmenter in segmenters.items():
                start = _now(arguments.device)
                segmenter(image, vocabulary, options).panoptic()
                if run:  # The first warms up and fills the text cache.
                    times[name].append(_now(arguments.device) - start)
        medians = {name: statistics.median(found) for name, found in times.items()}
        figures = ", ".join(f"{name} {seconds:.3g} s ({1 / seconds:.3g} FPS)" for name, seconds in medians.items())
        print(f"{sides} on {arguments.device}, RANDOM WEIGHTS, median of {arguments.runs}: {figures}; FC-CLIP is "
              f"{medians['FrozenSeg'] / medians['FC-CLIP']:.2f} times as fast")  # fmt: skip


def _now(device: str) -> float:
    """Seconds on the clock that counts for this device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


if __name__ == "__main__":
    main()

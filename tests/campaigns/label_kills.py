"""Kills a labeling run again and again at random moments, then lets it end, and counts what came out.

python tests/campaigns/label_kills.py --kills 20

Each kill is a SIGKILL of the whole process group of the driver (with --with-ray its workers too). The
run passes when every image is labelled once, no file is torn, and the folder holds what a run without kills makes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

CHECKOUT = Path(__file__).resolve().parents[2]
RUN_WITHOUT_RAY = """
import sys
from pipelines.label import label
from pipelines.labeling.options import LabelOptions
from pipelines.segmenter_pool import PoolOptions, SegmenterSource
options = LabelOptions(to=sys.argv[3], vocabulary=sys.argv[4], formats=("coco-panoptic", "parquet", "webdataset"),
                       images_per_part=2)
label(SegmenterSource(model=sys.argv[1]), sys.argv[2], options, PoolOptions(in_process=True))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """num_kills: those that hit a living run."""

    num_kills: int
    num_images: int
    num_labelled_once: int
    same_as_without_kills: bool

    @property
    def passed(self) -> bool:
        return self.num_labelled_once == self.num_images and self.same_as_without_kills


def make_images(folder: Path, count: int) -> None:
    """Small pictures of noise."""
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"image{number:03d}.jpg")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def command(model: Path, images: Path, to: Path, vocabulary: str, *, with_ray: bool) -> list[str]:
    if not with_ray:
        return [sys.executable, "-W", "ignore", "-c", RUN_WITHOUT_RAY, str(model), str(images), str(to), vocabulary]
    return [
        *(sys.executable, "-W", "ignore", "ray_jobs/label.py", "--images", str(images), "--to", str(to)),
        *("--vocabulary", vocabulary, "--model", str(model), "--formats", "coco-panoptic,parquet,webdataset"),
        *("--images-per-part", "2", "--max-actors", "2", "--actor-cpus", "0.5"),
    ]


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        arguments,
        cwd=CHECKOUT,
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def parts_done(to: Path) -> int:
    return len(list((to / "parts").glob("*.json"))) if (to / "parts").is_dir() else 0


def run_campaign(model: Path, vocabulary: str, work: Path, *, kills: int, images: int, with_ray: bool) -> Outcome:
    """One uninterrupted run, one with kills, and the comparison."""
    make_images(work / "images", images)
    whole, broken = work / "whole", work / "broken"
    if start(command(model, work / "images", whole, vocabulary, with_ray=False)).wait() != 0:
        raise SystemExit("the run without kills failed")
    dice = random.Random(0)
    num_kills = 0
    while num_kills < kills:
        process = start(command(model, work / "images", broken, vocabulary, with_ray=with_ray))
        before = parts_done(broken)
        # Wait for the run to be at work, then for a random moment of it.
        while process.poll() is None and parts_done(broken) == before:
            time.sleep(0.005)
        time.sleep(dice.uniform(0, 0.2))
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        num_kills += 1
    if start(command(model, work / "images", broken, vocabulary, with_ray=with_ray)).wait() != 0:
        raise SystemExit("the last run failed")
    panoptic = json.loads((broken / "coco-panoptic" / "panoptic.json").read_text())
    labelled = Counter(annotation["image_id"] for annotation in panoptic["annotations"])
    return Outcome(
        num_kills=num_kills,
        num_images=images,
        num_labelled_once=sum(count == 1 for count in labelled.values()),
        same_as_without_kills=contents(broken) == contents(whole),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--model", type=Path, default=CHECKOUT / "frozenseg" / "miniature" / "model")
    parser.add_argument("--vocabulary", default="red button; green flag; water(stuff)")
    parser.add_argument("--with-ray", action="store_true", help="a Ray session per run; slower by its start")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        outcome = run_campaign(
            arguments.model.absolute(),
            arguments.vocabulary,
            Path(work),
            kills=arguments.kills,
            images=arguments.images,
            with_ray=arguments.with_ray,
        )
    print(outcome, "passed" if outcome.passed else "FAILED")
    return 0 if outcome.passed else 1


if __name__ == "__main__":
    sys.exit(main())

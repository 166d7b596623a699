"""Kills a labeling run again and again at random moments, then lets it end, and counts what came out.

python -m tests.campaigns.label_kills --kills 20 --with-ray

Without Ray, each kill is a SIGKILL of the whole run. With Ray the dice choose the driver, an actor (Ray starts it anew
and the run goes on), any other worker process, or the node's raylet. The run passes when every image is labelled once,
no file is torn, the folder holds what a run without kills makes, and little was done twice.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from pipelines.label import label
from pipelines.segmenter_pool import PoolOptions, SegmenterSource
from tests.campaigns.label_driver import IMAGES_PER_PART, NUM_ACTORS, options_for

CHECKOUT = Path(__file__).resolve().parents[2]
VICTIMS = ("driver", "actor", "worker", "node")
STALL_S = 180
"""A run that makes no progress for so long has hung: the campaign fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """kills: that hit a living process, by victim; num_starts: of the command; num_seen: images that the model saw in
    all; num_again: of them, those it had seen before; most_again: what may be done again at most: a part for each
    actor and kill."""

    kills: dict[str, int] = field(default_factory=dict)
    num_starts: int
    num_images: int
    num_labelled_once: int
    num_seen: int
    num_again: int
    most_again: int
    same_as_without_kills: bool

    @property
    def passed(self) -> bool:
        return (
            self.num_labelled_once == self.num_images
            and self.same_as_without_kills
            and self.num_again <= self.most_again
        )


def make_images(folder: Path, count: int) -> None:
    """Small pictures of noise."""
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"image{number:03d}.jpg")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Run:
    """The command, started as often as it takes."""

    def __init__(self, arguments: list[str], to: Path) -> None:
        self.arguments, self.to = arguments, to
        self.num_starts = 0
        self.start()

    def start(self) -> None:
        self.num_starts += 1
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.campaigns.label_driver", *self.arguments],
            cwd=CHECKOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHECKOUT)},
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def parts_done(self) -> int:
        return len(list((self.to / "parts").glob("*.json"))) if (self.to / "parts").is_dir() else 0

    def wait_for_progress(self) -> bool:
        """Until another part is done; False when the run ended before."""
        before, deadline = self.parts_done(), time.monotonic() + STALL_S
        while self.process.poll() is None and self.parts_done() == before:
            if time.monotonic() > deadline:
                raise SystemExit("the run hangs")
            time.sleep(0.005)
        return self.process.poll() is None

    def descendants(self) -> list[psutil.Process]:
        try:
            found: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return found

    def kill(self, victim: str, dice: random.Random) -> bool:
        """True when there was such a process to kill. What dies with the driver is swept away with it."""
        family = self.descendants()
        wanted = [process for process in family if kind_of(process) == victim]
        if victim == "driver":
            wanted = [psutil.Process(self.process.pid)]
        if not wanted:
            return False
        dice.choice(wanted).kill()
        if victim in ("driver", "node"):
            # Orphans are ended as a dying machine would end them; a node's driver sees its node gone and ends itself.
            self.sweep(family)
        return True

    def sweep(self, family: list[psutil.Process]) -> None:
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for process in family:
            if process.is_running():
                process.kill()
        psutil.wait_procs(family, timeout=30)


def kind_of(process: psutil.Process) -> str:
    """Which victim a process of Ray's is, or empty."""
    try:
        line = " ".join(process.cmdline())
    except psutil.Error:
        return ""
    if "MapWorker" in line:
        return "actor"
    if line.startswith("ray::"):
        return "worker"
    return "node" if "/raylet/raylet" in line else ""


def run_campaign(
    model: Path, vocabulary: str, work: Path, *, kills: int, images: int, with_ray: bool, seed: int = 0
) -> Outcome:
    """One uninterrupted run here, one with kills, and the comparison."""
    make_images(work / "images", images)
    whole, broken, journal = work / "whole", work / "broken", work / "journal"
    source = SegmenterSource(model=str(model))
    label(source, str(work / "images"), options_for(str(whole), vocabulary), PoolOptions(in_process=True))
    arguments = [str(model), str(work / "images"), str(broken), vocabulary, str(journal)]
    dice = random.Random(seed)
    run = Run(arguments + (["with-ray"] if with_ray else []), broken)
    done: Counter[str] = Counter()
    while done.total() < kills:
        if not run.wait_for_progress():
            if run.process.wait() == 0:
                break
            # A kill was the end of it, at once or later.
            run.start()
            continue
        time.sleep(dice.uniform(0, 0.2))
        victim = dice.choice(VICTIMS) if with_ray else "driver"
        if run.process.poll() is None and run.kill(victim, dice):
            done[victim] += 1
    while run.wait_for_progress():
        pass
    if run.process.wait() != 0:
        # The last kill was the end of it.
        run.start()
        if run.process.wait() != 0:
            raise SystemExit("the last run failed")
    panoptic = json.loads((broken / "coco-panoptic" / "panoptic.json").read_text())
    labelled = Counter(annotation["image_id"] for annotation in panoptic["annotations"])
    seen = Counter(journal.read_text().splitlines())
    return Outcome(
        kills=dict(done),
        num_starts=run.num_starts,
        num_images=images,
        num_labelled_once=sum(count == 1 for count in labelled.values()),
        num_seen=seen.total(),
        num_again=seen.total() - len(seen),
        most_again=done.total() * IMAGES_PER_PART * (NUM_ACTORS if with_ray else 1),
        same_as_without_kills=contents(broken) == contents(whole),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--images", type=int, default=480)
    parser.add_argument("--model", type=Path, default=CHECKOUT / "frozenseg" / "miniature" / "model")
    parser.add_argument("--vocabulary", default="red button; green flag; water(stuff)")
    parser.add_argument("--with-ray", action="store_true", help="a Ray session per start; slower by its start")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        outcome = run_campaign(
            arguments.model.absolute(),
            arguments.vocabulary,
            Path(work),
            kills=arguments.kills,
            images=arguments.images,
            with_ray=arguments.with_ray,
            seed=arguments.seed,
        )
    print(outcome, "passed" if outcome.passed else "FAILED")
    if sum(outcome.kills.values()) < arguments.kills:
        print(f"the run was over before kill {arguments.kills}: give it more --images")
        return 1
    return 0 if outcome.passed else 1


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python
"""Kills a training run again and again, then checks that nothing shows it.

    python tests/campaigns/train_kills.py --kills 20 --engine deepspeed --output FOLDER

A small run is started by the user's own command, ray_jobs/train.py. At random moments a train worker, an encoder actor
or the driver gets SIGKILL, or the driver Ctrl-C; where the driver is gone the same command is given again. In the end:
every epoch that was finished used every sample exactly once, the metrics tell every step once, and the losses are to
the bit those of a run that nobody killed.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from frozenseg.config import to_toml
from tests.pipelines.small_run import CHECKOUT, NUM_SCENES, make_shards, small_config

Kind = Literal["worker", "encoder", "driver", "interrupt"]
KINDS: tuple[Kind, ...] = ("worker", "encoder", "driver", "interrupt")
TITLES = {"worker": "RayTrainWorker", "encoder": "EncoderActor"}
EXIT_INTERRUPTED = 130
PATIENCE_S = 300.0
"""Without a new step for so long, a run is taken to hang."""


class CampaignError(Exception):
    """What must not happen happened."""


def records(path: Path) -> list[dict[str, float]]:
    """Whole lines of a metrics file; the one that is being written is left out."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def wait_for_steps(metrics: Path, since: float, count: int, is_over: Callable[[], bool]) -> bool:
    """Waits until `count` steps were made after the time `since`. False when the run is over before that."""
    deadline = time.monotonic() + PATIENCE_S
    while sum(record["time"] > since for record in records(metrics)) < count:
        if is_over():
            return False
        if time.monotonic() > deadline:
            raise CampaignError(f"no {count} new steps in {PATIENCE_S:.0f} seconds")
        time.sleep(0.1)
    return True


def descendants(pid: int, kind: str) -> list[psutil.Process]:
    """Processes below `pid` that Ray has named for this kind of actor."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if TITLES[kind] in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue  # ended meanwhile
    return found


def kill_one(pid: int, kind: Kind, choose: random.Random) -> None:
    """SIGKILL to one of the actors below `pid`, as soon as there is one."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := descendants(pid, kind)):
        if time.monotonic() > deadline:
            raise CampaignError(f"no process of kind {kind} below {pid}")
        time.sleep(0.1)
    choose.choice(found).kill()


def order_of(kills: int, choose: random.Random) -> Iterator[Kind]:
    """Every kind once, in random order, before any comes again."""
    while kills > 0:
        yield from choose.sample(KINDS, len(KINDS))[:kills]
        kills -= len(KINDS)


class Driver:
    """The user's command, started again where it was ended."""

    def __init__(self, config: Path, log: Path) -> None:
        self._command = [sys.executable, str(CHECKOUT / "ray_jobs" / "train.py"), "--config", str(config)]
        self._log = log
        self.start()

    def start(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with self._log.open("ab") as file:
            self._process = subprocess.Popen(
                self._command, env=environment, stdout=file, stderr=file, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_over(self) -> bool:
        return self._process.poll() is not None

    def end(self, number: signal.Signals) -> int:
        """Sends a signal and waits until the driver and what works for it are gone. Returns the exit code.

        Ray's own agents may need minutes to see that a node was killed; they know nothing of the run, and are ended.
        """
        below = psutil.Process(self.pid).children(recursive=True)
        actors = [process for kind in TITLES for process in descendants(self.pid, kind)]
        self._process.send_signal(number)
        code = self._process.wait(PATIENCE_S)
        _, alive = psutil.wait_procs(actors, timeout=60)
        if alive:
            raise CampaignError(f"left behind by the driver: {[process.name() for process in alive]}")
        for process in psutil.wait_procs(below, timeout=10)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return code

    def wait(self) -> None:
        code = self._process.wait(PATIENCE_S)
        if code != 0:
            raise CampaignError(f"the run failed by itself, exit code {code}: see {self._log}")


def run_with_kills(config: Path, output: Path, kills: int, seed: int) -> dict[str, int]:
    """Runs to the end; returns how often what was killed."""
    choose, done = random.Random(seed), collections.Counter[str]()
    driver, metrics = Driver(config, output.with_suffix(".log")), output / "metrics.jsonl"
    since = 0.0
    try:
        for kind in order_of(kills, choose):
            # Up to five steps after the one before, so that some fall between two checkpoints, some just after one.
            if not wait_for_steps(metrics, since, choose.randint(1, 5), driver.is_over):
                driver.wait()
                raise CampaignError(f"the run was over before its {kills} kills: {dict(done)}")
            since = time.time()
            if kind in TITLES:
                kill_one(driver.pid, kind, choose)
            else:
                code = driver.end(signal.SIGKILL if kind == "driver" else signal.SIGINT)
                if kind == "interrupt" and code != EXIT_INTERRUPTED:
                    raise CampaignError(f"Ctrl-C: exit code {code}, expected {EXIT_INTERRUPTED}")
                driver.start()
            done[kind] += 1
            print(f"killed: {dict(done)}, at step {len(records(metrics))}", flush=True)
        driver.wait()
    finally:
        if not driver.is_over():
            driver.end(signal.SIGKILL)
    return dict(done)


def losses(output: Path) -> list[float]:
    """The loss of each step, from the first; raises where a step is missing or told twice."""
    found = records(output / "metrics.jsonl")
    steps = [record["step"] for record in found]
    if steps != list(range(1, len(steps) + 1)):
        raise CampaignError(f"{output}: steps are missing or told twice: {steps}")
    return [record["loss"] for record in found]


def whole_epochs(output: Path, num_samples: int) -> int:
    """How many epochs are finished; raises where one of them has not used every sample exactly once."""
    used: dict[int, list[str]] = collections.defaultdict(list)
    for path in sorted((output / "samples").glob("rank-*.jsonl")):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            used[record["epoch"]] += record["image_ids"]
    for epoch, ids in used.items():
        if len(ids) != len(set(ids)):
            raise CampaignError(f"epoch {epoch} used a sample twice: {sorted(ids)}")
        if epoch != max(used) and len(ids) != num_samples:
            raise CampaignError(f"epoch {epoch} used {len(ids)} of {num_samples} samples")
    return len(used) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Fields: killed: how often what; num_epochs: whole ones; unbroken, broken: the losses of the two runs."""

    killed: dict[str, int]
    num_epochs: int
    unbroken: list[float]
    broken: list[float]


def run_campaign(folder: Path, kills: int, seed: int, engine: Literal["torch", "deepspeed"]) -> Outcome:
    """The same run unbroken and killed `kills` times. `folder` is made."""
    folder.mkdir(parents=True)
    shards = make_shards(folder)
    killed: dict[str, int] = {}
    for name, count in (("unbroken", 0), ("broken", kills)):
        base = small_config(shards, folder / name, engine)
        schedule = dataclasses.replace(base.schedule, num_steps=10 + 4 * kills)
        config = folder / f"{name}.toml"
        config.write_text(to_toml(dataclasses.replace(base, schedule=schedule)))
        killed = run_with_kills(config, folder / name, count, seed)
        print(f"{name}: {killed or 'no kills'}, {whole_epochs(folder / name, NUM_SCENES)} epochs whole", flush=True)
    return Outcome(
        killed=killed,
        num_epochs=whole_epochs(folder / "broken", NUM_SCENES),
        unbroken=losses(folder / "unbroken"),
        broken=losses(folder / "broken"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--engine", choices=["torch", "deepspeed"], default="deepspeed")
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    outcome = run_campaign(options.output, options.kills, options.seed, options.engine)
    pairs = list(zip(outcome.unbroken, outcome.broken, strict=True))
    equal = sum(whole == broken for whole, broken in pairs)
    print(f"{outcome.killed}; {outcome.num_epochs} epochs, every sample once in each")
    print(f"losses: {equal} of {len(pairs)} steps are equal to the bit")
    if equal < len(pairs):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

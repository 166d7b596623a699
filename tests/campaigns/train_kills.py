#!/usr/bin/env python
"""Kills a training run again and again, then checks that nothing shows it.

    python tests/campaigns/train_kills.py --kills 20

A run of the miniature config on a small shard set is started by the user's own command, ray_jobs/train.py. At random
moments a train worker or the driver gets SIGKILL; a killed driver is started again by the same command. In the end:
every epoch that was finished used every sample exactly once, the metrics tell every step once, and the losses are those
of a run that nobody killed.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
MARK = "FROZENSEG_CAMPAIGN"


def command(shards: Path, output: Path, steps: int, config: Path) -> list[str]:
    script = str(CHECKOUT / "ray_jobs" / "train.py")
    paths = ["--config", str(config), "--shards", str(shards), "--output", str(output)]
    return [sys.executable, script, *paths, "--steps", str(steps)]


def start(arguments: list[str], log: Path, mark: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {MARK: mark, "OMP_NUM_THREADS": "1"}
    with log.open("ab") as file:
        return subprocess.Popen(arguments, env=environment, stdout=file, stderr=file, start_new_session=True)


def workers_of(mark: str) -> list[int]:
    """Train workers of this campaign and of nobody else: they inherit its mark in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            pid = int(folder.name)
            title = (folder / "cmdline").read_bytes()
            if b"RayTrainWorker" in title and f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                found.append(pid)
    return found


def steps_done(output: Path) -> int:
    metrics = output / "metrics.jsonl"
    return len(metrics.read_bytes().splitlines()) if metrics.exists() else 0


def run_with_kills(arguments: list[str], output: Path, num_steps: int, kills: int, seed: int) -> dict[str, int]:
    """Runs to the end; returns how often what was killed."""
    choose, done = random.Random(seed), collections.Counter[str]()
    log, mark = output.with_suffix(".log"), uuid.uuid4().hex
    process = start(arguments, log, mark)
    while True:
        # A kill is due a random number of steps after the one before, so that some fall between two checkpoints.
        due = steps_done(output) + choose.randint(1, max(2, num_steps // (kills + 1)))
        while process.poll() is None and (sum(done.values()) >= kills or steps_done(output) < min(due, num_steps - 1)):
            time.sleep(0.2)
        if process.poll() == 0:
            return dict(done)
        if process.poll() is not None:
            raise SystemExit(f"the run failed by itself, exit code {process.returncode}: see {log}")
        pids = workers_of(mark)
        if pids and choose.random() < 0.5:
            done["worker"] += 1
            with contextlib.suppress(ProcessLookupError):
                os.kill(choose.choice(pids), signal.SIGKILL)
            time.sleep(5)  # until the group is down: a second kill in that time would hit nobody
        else:
            done["driver"] += 1
            process.kill()
            process.wait()
            while workers_of(mark):
                time.sleep(0.5)
            process = start(arguments, log, mark)
        print(f"killed: {dict(done)}, at step {steps_done(output)}", flush=True)


def losses(output: Path) -> dict[int, float]:
    records = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    found = {record["step"]: record["loss"] for record in records}
    assert len(found) == len(records), "a step is told twice"
    return found


def check_samples(output: Path, num_samples: int) -> int:
    """Every sample of every finished epoch was used exactly once. Returns the number of finished epochs."""
    used: dict[int, list[str]] = collections.defaultdict(list)
    for path in sorted((output / "samples").glob("rank-*.jsonl")):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            used[record["epoch"]] += record["image_ids"]
    for epoch in sorted(used)[:-1]:
        assert len(used[epoch]) == len(set(used[epoch])) == num_samples, f"epoch {epoch}: {len(used[epoch])} samples"
    last = used[max(used)]
    assert len(last) == len(set(last)), "a sample of the last epoch was used twice"
    return len(used) - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--shards", type=Path, required=True, help="a shard set of a few dozen miniature scenes")
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    parser.add_argument("--config", type=Path, default=CHECKOUT / "configs" / "miniature.toml")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.output.mkdir(parents=True)
    from shards import ShardReader

    num_samples = len(ShardReader(options.shards))
    outputs = {name: options.output / name for name in ("unbroken", "killed")}
    kills = {"unbroken": 0, "killed": options.kills}
    for name, output in outputs.items():
        arguments = command(options.shards, output, options.steps, options.config)
        done = run_with_kills(arguments, output, options.steps, kills[name], options.seed)
        epochs = check_samples(output, num_samples)
        print(f"{name}: {done or 'no kills'}, {epochs} epochs whole, every sample once", flush=True)
    whole, broken = losses(outputs["unbroken"]), losses(outputs["killed"])
    assert whole.keys() == broken.keys() == set(range(1, options.steps + 1)), "steps are missing"
    different = [step for step in whole if whole[step] != broken[step]]
    print(f"losses: {len(whole) - len(different)} of {len(whole)} steps are equal to the bit")
    if different:
        raise SystemExit(f"first different step {different[0]}: {whole[different[0]]} and {broken[different[0]]}")


if __name__ == "__main__":
    main()

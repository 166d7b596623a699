#!/usr/bin/env python
"""The whole system in miniature: world, shards, features, training, evaluation, labels, server, report."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines.demo.options import DemoOptions
from pipelines.job import run_job


def run(options: DemoOptions) -> None:
    from frozenseg.errors import UserInputError
    from pipelines.demo.run import next_steps, run_demo

    if options.to.exists() and not options.to.is_dir():
        raise UserInputError(f"--to {options.to}: expected a folder, found a file")
    if min(options.train_scenes, options.val_scenes, options.label_images) < 1:
        raise UserInputError("--train-scenes, --val-scenes and --label-images: expected at least 1 of each")
    started = time.monotonic()
    report = run_demo(options)
    print(f"\nDone in {time.monotonic() - started:.0f} s. Everything is in {options.to}; open {report} in a browser.")
    print("\nWhat to do next (with .venv/bin on PATH: `source .venv/bin/activate`):")
    for step in next_steps(options):
        print(f"  {step}")


if __name__ == "__main__":
    sys.exit(run_job(DemoOptions, run, __doc__ or ""))

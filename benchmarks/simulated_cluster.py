"""The planner against a simulated cluster that runs real Ray actors, queues and byte transfers under the wall clock.

    python -m benchmarks.simulated_cluster calibrate --to benchmarks/simulated_cluster_rates.toml
    python -m benchmarks.simulated_cluster predict --rates benchmarks/simulated_cluster_rates.toml \
        --to benchmarks/simulated_cluster_predictions.json
    python -m benchmarks.simulated_cluster run --to benchmarks/simulated_cluster_results.json

GPUs are pretended, stages sleep for their time, links are of limited bandwidth (`simulated_world.World`, which the
planner never sees). `calibrate` measures workers of each stage, `predict` gives the planner these rates and the
clusters' descriptions, `run` (8 minutes) compares what is measured with the predictions and ends with 1 where one is
further off than 15 %. Predictions are committed before the runs that they are compared with.

A run during which the machine woke its sleepers more than 5 % late says nothing about the planner: it is done again, up
to three times in all, whatever its rate was; the last one counts.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.simulated_calibration import calibrate
from benchmarks.simulated_configurations import CONFIGURATIONS, Configuration, layout_of
from benchmarks.simulated_run import run, simulation
from benchmarks.simulated_world import World
from frozenseg.config import load_toml, to_toml
from frozenseg.errors import UserInputError
from pipelines.planning import StageRates, predict

_HERE = Path(__file__).parent
RATES = _HERE / "simulated_cluster_rates.toml"
PREDICTIONS = _HERE / "simulated_cluster_predictions.json"
LARGEST_ERROR = 0.15
LARGEST_LATENESS = 0.05
NUM_TRIES = 3
BLOCK_IMAGES = World().block_images
"""What a user sets as `encoder_batch`: no secret of the world's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    images_per_s: float
    bottleneck: str


def predict_all(rates: StageRates) -> dict[str, Prediction]:
    """By the configuration's name."""
    return {each.name: _predict(each, rates) for each in CONFIGURATIONS}


def _predict(configuration: Configuration, rates: StageRates) -> Prediction:
    plan = predict(
        configuration.cluster,
        rates,
        configuration.workload(BLOCK_IMAGES),
        configuration.mode,
        configuration.num_encoders,
    )
    return Prediction(images_per_s=round(plan.images_per_s, 2), bottleneck=plan.bottleneck)


def read_predictions(path: Path) -> dict[str, Prediction]:
    """Raises UserInputError where the file misses a configuration."""
    found = json.loads(path.read_text())
    missing = [each.name for each in CONFIGURATIONS if each.name not in found]
    if missing:
        raise UserInputError(f"{path}: no prediction for {', '.join(missing)}; write it anew by `predict`")
    return {name: Prediction(**fields) for name, fields in found.items()}


def compare(predictions: dict[str, Prediction], seed: int, only: str) -> dict[str, dict[str, float | str]]:
    """Runs every configuration whose name contains `only`, and prints a row of a table for each."""
    world = World()
    results: dict[str, dict[str, float | str]] = {}
    print("| configuration | slowest stage | predicted, images/s | measured | measured / predicted | late | runs |")
    print("|---|---|---|---|---|---|---|")
    for number, configuration in enumerate(CONFIGURATIONS):
        if only not in configuration.name:
            continue
        layout = layout_of(configuration, world)
        for attempt in range(NUM_TRIES):
            measured = run(world, layout, configuration.num_steps, seed + number + 1000 * attempt)
            if measured.lateness <= LARGEST_LATENESS:
                break
        expected = tuple(range(configuration.num_steps * configuration.num_trainers * world.block_images))
        assert measured.samples == expected, "every sample must pass exactly once"
        assert measured.peak_in_flight <= layout.max_in_flight, "queues must be bounded"
        assert not measured.imports_torch
        predicted = predictions[configuration.name]
        ratio = measured.images_per_s / predicted.images_per_s
        print(
            f"| {configuration.name} | {predicted.bottleneck} | {predicted.images_per_s:.1f} | "
            f"{measured.images_per_s:.1f} | {ratio:.2f} | {100 * measured.lateness:.1f} % | {attempt + 1} |",
            flush=True,
        )
        results[configuration.name] = {
            "bottleneck": predicted.bottleneck,
            "predicted": predicted.images_per_s,
            "measured": round(measured.images_per_s, 2),
            "ratio": round(ratio, 3),
            "seconds": round(measured.seconds, 1),
            "lateness": round(measured.lateness, 3),
            "runs": attempt + 1,
        }
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("calibrate", "predict", "run"))
    parser.add_argument("--rates", type=Path, default=RATES)
    parser.add_argument("--predictions", type=Path, default=PREDICTIONS)
    parser.add_argument("--to", type=Path, help="where to write the rates, the predictions or the results")
    parser.add_argument("--blocks", type=int, default=20, help="calibrate: blocks that are timed per worker of a stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="run: configurations with this in their name")
    options = parser.parse_args()
    status = 0
    match options.what:
        case "calibrate":
            with simulation(num_gpus=8):
                text = to_toml(calibrate(World(), options.seed, options.blocks))
        case "predict":
            predictions = predict_all(load_toml(options.rates, StageRates))
            fields = {n: {"images_per_s": p.images_per_s, "bottleneck": p.bottleneck} for n, p in predictions.items()}
            text = json.dumps(fields, indent=1) + "\n"
        case "run":
            with simulation(num_gpus=80):
                results = compare(read_predictions(options.predictions), options.seed, options.only)
            worst = max(abs(float(result["ratio"]) - 1) for result in results.values())
            status = int(worst > LARGEST_ERROR)
            print(f"furthest off: {100 * worst:.0f} % (allowed: {100 * LARGEST_ERROR:.0f} %)", file=sys.stderr)
            text = json.dumps({"seed": options.seed, "configurations": results}, indent=1) + "\n"
    if options.to is not None:
        options.to.write_text(text, encoding="utf-8")
    elif options.what != "run":
        print(text, end="")
    return status


if __name__ == "__main__":
    sys.exit(main())

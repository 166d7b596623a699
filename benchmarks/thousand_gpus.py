"""The planner's word on 8 to 1,000 GPUs and up to a billion images, as tables for docs/scaling.md.

    python -m benchmarks.thousand_gpus [--cluster configs/cluster-1000.toml] [--rates configs/rates-1000.toml]

Nodes are those of the cluster file, divided anew for every size. What is assumed: the comments in both files.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from frozenseg.config import load_toml
from pipelines.planning import Cluster, NodeGroup, Plan, StageRates, Workload, predict
from pipelines.planning.predict import Mode, largest_pool
from pipelines.planning.report import bytes_text

_CONFIGS = Path(__file__).resolve().parents[1] / "configs"
_SIZES = (8, 32, 128, 512, 1000)
_PART_IMAGES = 64
"""`--images-per-part` of ray_jobs/label.py: what one move by the scheduler stands for there."""
COCO = Workload(num_images=118_287, num_steps=368_750, batch_size=16)
BILLION = Workload(num_images=10**9, num_steps=10**9 // 16, batch_size=16, num_views=1)


def best_division(cluster: Cluster, rates: StageRates, work: Workload, num_gpus: int, mode: Mode) -> Plan:
    """The fastest plan of one mode on so many GPUs, over all divisions into trainers and encoders."""
    num_nodes = num_gpus // cluster.trainers.gpus
    if mode == "inline" or num_nodes == 1:
        together = replace(cluster, trainers=replace(cluster.trainers, nodes=num_nodes), encoders=NodeGroup(nodes=0))
        sizes = [0] if mode == "inline" else range(1, largest_pool(together) + 1)
        return max((predict(together, rates, work, mode, size) for size in sizes), key=_paces)
    plans = []
    for num_trainer_nodes in range(1, num_nodes):
        divided = replace(
            cluster,
            trainers=replace(cluster.trainers, nodes=num_trainer_nodes),
            encoders=replace(cluster.encoders, nodes=num_nodes - num_trainer_nodes),
        )
        plans.append(predict(divided, rates, work, mode, largest_pool(divided)))
    return max(plans, key=_paces)


def _paces(plan: Plan) -> tuple[float, ...]:
    """Of plans with the same slowest stage, the one with the fastest next is best."""
    return plan.images_per_s, *(bound for _, bound in plan.bounds)


def training_table(cluster: Cluster, rates: StageRates) -> list[str]:
    lines = [
        "| GPUs | mode | streams | trainers + encoders | images/s | slowest, and next | COCO, 50 epochs: hours | "
        "cost | 10⁹ images once: days |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for num_gpus in _SIZES:
        num_nodes = num_gpus // cluster.trainers.gpus
        forms: dict[tuple[Mode, int], None] = dict.fromkeys(
            (("stream", 1), ("inline", 1), ("stream", num_nodes), ("inline", num_nodes))
        )
        for mode, num_streams in forms:
            shared = _in_streams(rates, rates.block_images, num_streams)
            plan = best_division(cluster, shared, COCO, num_gpus, mode)
            billion = best_division(cluster, shared, BILLION, num_gpus, mode)
            lines.append(
                f"| {num_gpus:,} | {mode} | {num_streams} | {_workers(plan)} | {plan.images_per_s:,.0f} | "
                f"{_slowest(plan)} | {plan.hours:,.1f} | {plan.cost:,.0f} | {billion.hours / 24:,.1f} |"
            )
    return lines


def coordination_table(cluster: Cluster, rates: StageRates) -> list[str]:
    lines = [
        "| images a block | independent streams | trainers + encoders | images/s | slowest, and next |",
        "|---|---|---|---|---|",
    ]
    for block_images, num_streams in ((4, 1), (16, 1), (64, 1), (4, 16), (4, 64), (16, 16)):
        plan = best_division(cluster, _in_streams(rates, block_images, num_streams), COCO, _SIZES[-1], "stream")
        lines.append(
            f"| {block_images} | {num_streams} | {_workers(plan)} | {plan.images_per_s:,.0f} | {_slowest(plan)} |"
        )
    return lines


def labeling_table(cluster: Cluster, rates: StageRates, label_seconds: float) -> list[str]:
    """Args: label_seconds: of an image's decoder, merging and writing on its encoder's own worker."""
    alone = replace(
        _in_streams(rates, _PART_IMAGES, 1),
        train_seconds=label_seconds,
        receive_seconds=0.0,
        # Labeling workers wait for nobody.
        encode_deviation=0.0,
        train_deviation=0.0,
    )
    lines = ["| GPUs | images/s | slowest, and next | 10⁹ images: days | cost |", "|---|---|---|---|---|"]
    for num_gpus in _SIZES:
        plan = best_division(cluster, alone, BILLION, num_gpus, "inline")
        lines.append(
            f"| {num_gpus:,} | {plan.images_per_s:,.0f} | {_slowest(plan)} | {plan.hours / 24:,.1f} | "
            f"{plan.cost:,.0f} |"
        )
    return lines


def cache_line(cluster: Cluster, rates: StageRates) -> str:
    plans = {
        name: best_division(cluster, rates, replace(work, num_views=1), 1000, "cache")
        for name, work in (("COCO", COCO), ("10⁹ images", BILLION))
    }
    return "A cache of one view holds " + ", ".join(f"{bytes_text(p.stored_bytes)} for {n}" for n, p in plans.items())


def _in_streams(rates: StageRates, block_images: int, num_streams: int) -> StageRates:
    """With as many processes that move blocks, each its own, and blocks of so many images."""
    packed = rates.with_blocks_of(block_images)
    return replace(packed, coordinate_seconds=packed.coordinate_seconds / num_streams)


def _workers(plan: Plan) -> str:
    return f"{plan.num_trainers:,} + {plan.num_encoders:,}"


def _slowest(plan: Plan) -> str:
    (first, _), (second, bound) = plan.bounds[:2]
    return f"{first}, {second} ({bound:,.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cluster", type=Path, default=_CONFIGS / "cluster-1000.toml")
    parser.add_argument("--rates", type=Path, default=_CONFIGS / "rates-1000.toml")
    parser.add_argument("--label-seconds", type=float, default=0.05, help="decoder, merging, writing; assumed")
    options = parser.parse_args()
    cluster, rates = load_toml(options.cluster, Cluster), load_toml(options.rates, StageRates)
    tables = (
        training_table(cluster, rates),
        coordination_table(cluster, rates),
        labeling_table(cluster, rates, options.label_seconds),
        [cache_line(cluster, rates)],
    )
    print("\n\n".join("\n".join(lines) for lines in tables))


if __name__ == "__main__":
    main()

"""The ablation's table and plots, from its result files alone."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

COLUMNS: tuple[tuple[str, str], ...] = (
    ("mIoU seen", "miou_seen"),
    ("mIoU unseen", "miou_unseen"),
    ("PQ seen", "pq_seen"),
    ("PQ unseen", "pq_unseen"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """One (row, reading): `values` by column, in percent, keyed by seed."""

    name: str
    values: dict[str, dict[int, float]]
    extra: dict[int, dict[str, Any]]


def read_results(folder: Path) -> list[Results]:
    """All result files of an ablation, rows in order of their names."""
    grouped: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in sorted((folder / "results").glob("*.json")):
        document = json.loads(path.read_text())
        name = document["row"] + (f" + {document['read_as']}" if document["read_as"] else "")
        grouped[name].append(document)
    return [
        Results(
            name=name,
            values={key: {d["seed"]: 100 * d["scores"][key] for d in documents} for _, key in COLUMNS},
            extra={d["seed"]: d["scores"] for d in documents},
        )
        for name, documents in sorted(grouped.items())
    ]


def table(results: Sequence[Results], baseline: str) -> str:
    """Markdown: mean and standard deviation over seeds, difference to the baseline of the same seeds and the p-value of
    a paired t-test (two-sided, not corrected for the number of rows)."""
    base = next((r for r in results if r.name == baseline), None)
    lines = [
        "| row | seeds | " + " | ".join(title for title, _ in COLUMNS) + " | unseen mIoU against baseline (p) |",
        "|---|---|" + "---|" * (len(COLUMNS) + 1),
    ]
    for row in results:
        cells = [_spread(list(row.values[key].values())) for _, key in COLUMNS]
        versus = _paired(row, base) if base is not None and row is not base else ""
        lines.append(f"| {row.name} | {len(row.extra)} | " + " | ".join(cells) + f" | {versus} |")
    return "\n".join(lines) + "\n"


def two_by_two(results: Sequence[Results], name: str) -> str:
    """Markdown: found-and-named share, best IoU and recall at 0.75 of things over look x outline, mean over seeds."""
    row = next((r for r in results if r.name == name), None)
    if row is None:
        return ""
    keys = list(next(iter(row.extra.values()))["cells"])
    lines = ["| things with | segments | found and named | mean best IoU | best IoU > .75 |", "|---|---|---|---|---|"]
    for key in keys:
        cells = [scores["cells"][key] for scores in row.extra.values()]
        means = [float(np.mean([cell[column] for cell in cells])) for column in ("found", "best_iou", "above_75")]
        numbers = " | ".join(f"{100 * mean:.1f}" for mean in means)
        lines.append(f"| {key} | {cells[0]['num_segments']} | {numbers} |")
    return "\n".join(lines) + "\n"


def plot(results: Sequence[Results], path: Path) -> None:
    """Seen and unseen mIoU of every row, a dot a seed. Needs matplotlib, which the `dev` extra brings."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 1 + 0.32 * len(results)), sharey=True, layout="constrained")
    for axis, (title, key) in zip(axes, COLUMNS[:2], strict=True):
        for height, row in enumerate(results):
            values = list(row.values[key].values())
            axis.plot(values, [height] * len(values), "o", color="#3b6fb6", alpha=0.5, markersize=5)
            axis.plot([float(np.mean(values))], [height], "|", color="#b6423b", markersize=14, markeredgewidth=2)
        axis.set_title(title)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(results)), [row.name for row in results])
    axes[0].invert_yaxis()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _spread(values: Sequence[float]) -> str:
    mean = float(np.mean(values))
    return f"{mean:.1f} ± {float(np.std(values, ddof=1)):.1f}" if len(values) > 1 else f"{mean:.1f}"


def _paired(row: Results, base: Results) -> str:
    seeds = sorted(row.values["miou_unseen"].keys() & base.values["miou_unseen"].keys())
    if not seeds:
        return ""
    difference = [row.values["miou_unseen"][seed] - base.values["miou_unseen"][seed] for seed in seeds]
    mean = float(np.mean(difference))
    if len(seeds) < 2 or math.isclose(float(np.std(difference)), 0.0, abs_tol=1e-9):
        return f"{mean:+.1f}"
    return f"{mean:+.1f} ({float(stats.ttest_1samp(difference, 0.0).pvalue):.2f})"

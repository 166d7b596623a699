#!/usr/bin/env python
"""The laboratory: trains and evaluates the rows of an ablation in the miniature world, then writes table and plots.

python ray_jobs/ablate.py --config configs/miniature-ablation.toml

Started again, it computes what is missing. `--report-only` rewrites table and plots from the results so far.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

# `ray job submit` runs this file with no package installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from frozenseg.config import load_toml
from frozenseg.miniature.ablation import Ablation
from frozenseg.miniature.ablation_report import plot, read_results, table, two_by_two
from frozenseg.miniature.laboratory import run_ablation
from pipelines.job import run_job


@dataclass(frozen=True, kw_only=True)
class Arguments:
    config: Path
    """TOML file of an Ablation"""
    report_only: bool = False
    """compute nothing"""


def run(arguments: Arguments) -> None:
    ablation = load_toml(arguments.config, Ablation)
    if not arguments.report_only:
        run_ablation(ablation)
    results = read_results(ablation.to)
    report = table(results, ablation.baseline) + "\n" + two_by_two(results, ablation.baseline)
    ablation.to.mkdir(parents=True, exist_ok=True)
    (ablation.to / "table.md").write_text(report, encoding="utf-8")
    if results:
        plot(results, ablation.to / "rows.png")
    print(report)


if __name__ == "__main__":
    sys.exit(run_job(Arguments, run, __doc__ or ""))

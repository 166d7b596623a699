"""What docs/scaling.md carries to 1,000 GPUs is what the command prints, and follows from the files beside it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import thousand_gpus
from benchmarks.thousand_gpus import COCO, best_division
from frozenseg.config import load_toml
from pipelines.planning import Cluster, StageRates

ROOT = Path(__file__).parents[2]
CLUSTER = load_toml(ROOT / "configs" / "cluster-1000.toml", Cluster)
RATES = load_toml(ROOT / "configs" / "rates-1000.toml", StageRates)


def test_the_page_holds_what_the_command_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["thousand_gpus"])
    thousand_gpus.main()
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    tables = capsys.readouterr().out.split("\n\n")[:3]
    assert [table.strip() in page for table in tables] == [True] * 3


def test_the_best_division_uses_every_gpu_and_no_other_is_faster() -> None:
    unbound = replace(RATES, coordinate_seconds=0.0)
    plan = best_division(CLUSTER, unbound, COCO, 128, "stream")
    assert plan.num_trainers + plan.num_encoders == 128
    assert best_division(CLUSTER, unbound, COCO, 256, "stream").images_per_s > plan.images_per_s
    # With one process that moves blocks, more GPUs don't help; which of the equal plans is best, the next stage says.
    one = best_division(CLUSTER, RATES, COCO, 128, "stream")
    assert one.images_per_s == pytest.approx(1 / RATES.coordinate_seconds)
    assert one.bottleneck == "coordination"
    assert one.bounds[1][1] == pytest.approx(plan.images_per_s)
    assert best_division(CLUSTER, RATES, COCO, 128, "inline").num_encoders == 0

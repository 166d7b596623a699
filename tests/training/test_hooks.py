"""What a run tells: plain lines away from a terminal, JSON lines of one unbroken run, alerts."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from pathlib import Path

from rich.console import Console

from frozenseg.training import AlertHook, JsonLinesHook, ProgressHook, ScalarsHook, StepReport

REPORT = StepReport(
    step=1, epoch=0, total=12.0, class_=1.0, mask=0.5, dice=0.25, learning_rate=1e-4, gradient_norm=3.0, num_images=8,
    seconds=2.0, data_seconds=0.1, is_skipped=False, image_ids=("a", "b"),
)  # fmt: skip


def at(step: int, **changes: object) -> StepReport:
    return dataclasses.replace(REPORT, step=step, **changes)


def test_plain_lines_where_there_is_no_terminal() -> None:
    lines: list[str] = []
    hook = ProgressHook(3, every_seconds=0, console=Console(file=io.StringIO()), write=lines.append)
    for step in (1, 2, 3):
        hook.on_step(at(step))
    hook.close()
    assert len(lines) == 3
    assert lines[0].startswith("train: step 1/3, loss 12.00 (class 1.00, mask 0.50, dice 0.25), 4.0 images/s")


def test_a_bar_on_a_terminal() -> None:
    output = io.StringIO()
    hook = ProgressHook(2, console=Console(file=output, force_terminal=True, width=160), write=lambda line: None)
    hook.on_step(at(2))
    hook.close()
    assert "2/2" in output.getvalue()


def test_the_metrics_file_tells_one_unbroken_run(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    hook = JsonLinesHook(path)
    for step in (1, 2, 3):
        hook.on_step(at(step))
    hook.close()
    with path.open("a") as file:
        file.write('{"step": 4, "lo')  # what a kill leaves
    resumed = JsonLinesHook(path, first_step=2)
    resumed.on_step(at(3, total=11.0))
    resumed.close()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3]
    assert records[-1]["loss"] == 11.0
    assert records[0]["data_wait_share"] == 0.05


def test_the_samples_file_names_what_each_step_used(tmp_path: Path) -> None:
    hook = JsonLinesHook(tmp_path / "samples.jsonl", with_samples=True)
    hook.on_step(at(1))
    hook.close()
    assert json.loads((tmp_path / "samples.jsonl").read_text()) == {"step": 1, "epoch": 0, "image_ids": ["a", "b"]}


def test_alerts_for_steps_that_are_not_finite_and_for_waiting() -> None:
    lines: list[str] = []
    hook = AlertHook(window=2, warm_up=0, write=lines.append)
    hook.on_step(at(1, is_skipped=True, total=math.nan))
    hook.on_step(at(2))
    for step in (3, 4, 5):
        hook.on_step(at(step, data_seconds=1.0))
    assert [line.split(":")[1].strip() for line in lines] == ["step 1", "step 3"]
    assert "28%" in lines[1]


def test_waiting_at_the_start_is_no_alert() -> None:
    lines: list[str] = []
    hook = AlertHook(window=2, warm_up=3, write=lines.append)
    for step in (1, 2, 3, 4, 5):
        hook.on_step(at(step, data_seconds=1.9 if step <= 3 else 0.1))
    assert lines == []
    hook.on_step(at(6, data_seconds=1.0))
    assert len(lines) == 1


def test_every_writer_gets_every_scalar() -> None:
    found: dict[str, tuple[float, int]] = {}

    class Writer:
        def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
            found[tag] = (scalar_value, global_step)

        def add_image(self, *_: object, **__: object) -> None:
            raise AssertionError("a step has no picture")

        def close(self) -> None:
            found["closed"] = (0, 0)

    hook = ScalarsHook([Writer()], every=2)
    hook.on_step(at(1))
    assert not found
    hook.on_step(at(2))
    hook.close()
    assert found["train/loss"] == (12.0, 2)
    assert "closed" in found

"""The demo: its report from plain data, its steps and their memory, and (slow) the whole of it, small."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipelines.demo.loss_curve import LossPoint, loss_curve_svg, running_mean
from pipelines.demo.options import DemoOptions
from pipelines.demo.records import StageFailedError, StageLog, run_stage, shown_command
from pipelines.demo.report import (
    Interval,
    LegendEntry,
    Picture,
    ReportData,
    ScoreRow,
    ServedPicture,
    StageRecord,
    render_report,
)
from pipelines.demo.stages import Stage, demo_stages

ROOT = Path(__file__).resolve().parents[2]


def stage(tmp_path: Path, command: str, makes: str = "made") -> Stage:
    code = (sys.executable, "-c", command)
    return Stage(name="a step", command=code, makes=tmp_path / makes, items=10, unit="things")


def test_a_step_runs_once_and_is_remembered_while_what_it_made_is_there(tmp_path: Path) -> None:
    log = StageLog(tmp_path)
    made, count = tmp_path / "made", tmp_path / "count"
    step = stage(tmp_path, f"open({str(made)!r}, 'w').close(); open({str(count)!r}, 'a').write('x')")
    first = run_stage(step, log)
    assert not first.resumed
    again = run_stage(step, log)
    assert again.resumed
    assert again.seconds == first.seconds
    assert count.read_text() == "x"
    made.unlink()
    assert not run_stage(step, log).resumed
    assert count.read_text() == "xx"
    changed = stage(tmp_path, step.command[2] + "; 1")
    assert not run_stage(changed, log).resumed


def test_a_step_that_fails_stops_the_demo_and_is_not_remembered(tmp_path: Path) -> None:
    log = StageLog(tmp_path)
    step = stage(tmp_path, f"open({str(tmp_path / 'made')!r}, 'w').close(); raise SystemExit(3)")
    with pytest.raises(StageFailedError, match="exit code 3"):
        run_stage(step, log)
    assert log.find(step) is None


def test_commands_are_shown_as_a_user_types_them() -> None:
    assert shown_command((sys.executable, "ray_jobs/train.py", "--to", "a b")) == "python ray_jobs/train.py --to 'a b'"
    assert shown_command(("/somewhere/.venv/bin/frozenseg", "predict")) == "frozenseg predict"


def test_steps_name_scripts_that_exist_and_follow_the_options() -> None:
    stages = demo_stages(DemoOptions(to=Path("elsewhere"), train_scenes=8, val_scenes=4, steps=7, seed=5))
    for step in stages:
        assert "elsewhere" in shlex.join(step.command)
        assert step.makes.is_relative_to("elsewhere")
        for word in step.command:
            if word.startswith(("ray_jobs/", "configs/")):
                assert (ROOT / word).is_file()
    train = next(s for s in stages if "ray_jobs/train.py" in s.command)
    assert train.command[-2:] == ("--steps", "7")
    assert "--untrained" in next(s for s in stages if "untrained" in str(s.makes)).command


def test_running_mean_and_curve() -> None:
    assert running_mean([4.0, 2.0, 0.0, 0.0], 2) == [4.0, 3.0, 1.0, 0.0]
    points = [LossPoint(step=i + 1, total=10.0 / (i + 1)) for i in range(20)] + [LossPoint(step=21, total=float("nan"))]
    svg = loss_curve_svg(points)
    assert svg.count("<path") == 2
    assert "nan" not in svg
    assert "20 steps" in svg
    assert "No training step" in loss_curve_svg([])


class Collector(HTMLParser):
    """Tags in order with their attributes, and a complaint about anything fetched from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href") and not (value or "").startswith("data:"):
                self.outside.append(f"{tag} {name}={value}")


def report_data(name: str = "red button") -> ReportData:
    interval = Interval(value=61.25, low=55.0, high=66.0)
    legend = (LegendEntry(name=name, color=(1, 2, 3), seen=True), LegendEntry(name="new", color=(4, 5, 6), seen=False))
    return ReportData(
        title="A title",
        warnings=("RANDOM WEIGHTS: beware",),
        stages=(
            StageRecord(name="one", command="python one.py", seconds=2.0, items=10, unit="scenes"),
            StageRecord(name="two", command="python two.py", seconds=3.0, items=10, unit="scenes", resumed=True),
        ),
        scores=(ScoreRow(metric="PQ", split="unseen", trained=interval, untrained=interval),),
        pictures=(Picture(image_id="7", image=b"a", truth=b"b", panoptic=b"c", semantic=b"d", legend=legend),),
        served=(ServedPicture(image_id="7", overlay=b"e", milliseconds=12.3, names=(name,)),),
        losses=(LossPoint(step=1, total=3.0), LossPoint(step=2, total=2.0)),
        num_evaluated=60,
        next_steps=("frozenseg predict x.jpg",),
    )


def test_the_report_stands_alone_and_holds_everything() -> None:
    page = render_report(report_data())
    collector = Collector()
    collector.feed(page)
    assert collector.outside == []
    assert collector.tags.count("img") == 5
    for text in ("61.2", "[55.0, 66.0]", "5.0 scenes/s", "was there", "RANDOM WEIGHTS", "new (unseen)", "60 held-out"):
        assert text in page, text


def test_names_cannot_break_the_page() -> None:
    page = render_report(report_data(name='<script>alert("x")</script>'))
    assert "<script" not in page


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_demo_small(tmp_path: Path) -> None:
    # Relative, as the demo's own default: workers run in folders of their own.
    to = Path(os.path.relpath(tmp_path / "demo", ROOT))
    made = tmp_path / "demo"
    command = [
        sys.executable, "ray_jobs/demo.py", "--to", str(to), "--train-scenes", "32", "--val-scenes", "8",
        "--label-images", "4", "--steps", "8",
    ]  # fmt: skip
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]
    page = (made / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 6 * 4 + 4
    metrics = json.loads((made / "evaluation" / "metrics.json").read_text())
    assert metrics["num_images"] == 8
    assert metrics["num_unseen_categories"] == 9
    losses = [json.loads(line)["loss"] for line in (made / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 8
    assert losses[-1] < losses[0]
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr[-3000:]
    assert again.stdout.count("was there already") == 7
    predict = re.search(r"frozenseg predict .*", again.stdout)
    assert predict is not None
    tool = Path(sys.executable).with_name("frozenseg")
    run = subprocess.run(
        [str(tool), *shlex.split(predict.group(0))[1:], "--to", str(tmp_path / "predicted")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    assert list((tmp_path / "predicted").glob("*.png"))

"""The sums of a stream's watcher, on blocks whose times are made up."""

from __future__ import annotations

import contextlib
import json
import re
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from pipelines import columns as c
from pipelines.stream_watch import StreamRecorder, StreamReport, StreamWatch, stamped


def block(made_at: float, encoder: str | None, num_rows: int = 2) -> c.Columns:
    columns = {
        c.IMAGE_ID: np.array(["a"] * num_rows),
        c.MADE_AT: np.full(num_rows, made_at),
        c.READ_SECONDS: np.full(num_rows, 0.5),
        "clip_4": np.zeros((num_rows, 500_000), dtype=np.float32),
    }
    if encoder is not None:
        columns |= {c.ENCODER: np.array([encoder] * num_rows), c.ENCODE_SECONDS: np.full(num_rows, 1.0)}
    return columns


def watched(blocks: list[tuple[float, c.Columns]], world_size: int = 1) -> list[StreamReport]:
    reports: list[StreamReport] = []
    now = 100.0

    def clock() -> float:
        return now

    watch = StreamWatch(world_size, reports.append, every_s=10.0, clock=clock)
    for moment, columns in blocks:
        now = moment
        watch.look_at(columns)
    return reports


def test_rates_pool_and_queue_of_a_stretch() -> None:
    (report,) = watched([(104.0, block(100.0, "one")), (110.0, block(109.0, "two"))], world_size=2)
    assert report.seconds == 10.0
    assert report.images_per_s == pytest.approx(0.4)
    assert report.megabytes_per_s == pytest.approx(0.8, rel=0.01)
    assert report.waiting_images == pytest.approx((2 * 4 + 2 * 1) / 10)
    assert report.num_encoders == 2
    assert report.encoder_busy == pytest.approx(4 * 1.0 * 2 / 10 / 2), "each trainer sees half of what they did"
    assert (report.read_seconds, report.encode_seconds) == (0.5, 1.0)
    assert "2 encoder(s) 40% busy" in str(report)


def test_every_stretch_is_counted_by_itself_and_a_clock_behind_counts_as_no_wait() -> None:
    first, second = watched([(110.0, block(120.0, "one")), (115.0, block(115.0, "one")), (120.0, block(120.0, "one"))])
    assert (first.images_per_s, second.images_per_s) == pytest.approx((0.2, 0.4))
    assert first.waiting_images == second.waiting_images == 0.0


def test_without_a_pool_none_is_told_of() -> None:
    (report,) = watched([(110.0, block(110.0, None))])
    assert report.num_encoders == 0
    assert "encoder(s)" not in str(report)


def test_a_stage_tells_its_time_per_image() -> None:
    work = stamped(lambda columns: {**columns, "made": np.ones(2)}, c.READ_SECONDS)
    made = work({c.IMAGE_ID: np.array(["a", "b"])})
    assert set(made) == {c.IMAGE_ID, "made", c.READ_SECONDS, c.MADE_AT}
    assert made[c.READ_SECONDS].shape == made[c.MADE_AT].shape == (2,)
    assert 0 <= made[c.READ_SECONDS][0] < 1


def test_reports_become_records_and_lines(tmp_path: Path, ray_session: None) -> None:
    lines: list[str] = []
    record = StreamRecorder(tmp_path / "stream" / "rank-0.jsonl", 0, lines.append)
    reports = watched([(110.0, block(110.0, "one")), (120.0, block(120.0, "one"))])
    for report in reports:
        record(report)
    written = [json.loads(line) for line in (tmp_path / "stream" / "rank-0.jsonl").read_text().splitlines()]
    assert [StreamReport(**entry) for entry in written] == reports
    assert lines == [str(report) for report in reports]
    assert re.search(
        r'frozenseg_stream_images_per_s\{.*rank="0".*\} ' + str(reports[-1].images_per_s), metrics("images_per_s")
    )


def metrics(name: str) -> str:
    """What Ray's node gives to Prometheus, from which its dashboard takes its plots, once `name` is in it."""
    import ray

    (node,) = ray.nodes()  # type: ignore[no-untyped-call]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=10) as answer:
            text = str(answer.read().decode())
            if f"frozenseg_stream_{name}{{" in text:
                return text
        assert time.monotonic() < deadline, "no such gauge came"
        time.sleep(1)

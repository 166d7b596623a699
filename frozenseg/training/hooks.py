"""Watching a run: progress, metrics as JSON lines, scalars for TensorBoard and others, alerts. Most are for rank 0."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from frozenseg.training.loop import StepReport

Write = Callable[[str], None]


def write_line(line: str) -> None:
    """One line on stderr."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def metrics(report: StepReport) -> dict[str, float]:
    """The numbers of a step by their published-style names."""
    return {
        "loss": report.total,
        "loss_class": report.class_,
        "loss_mask": report.mask,
        "loss_dice": report.dice,
        "learning_rate": report.learning_rate,
        "gradient_norm": report.gradient_norm,
        "images_per_second": report.num_images / max(report.seconds, 1e-9),
        "data_wait_share": report.data_seconds / max(report.seconds, 1e-9),
    }


class ProgressHook:
    """A bar on a terminal; a plain line every few seconds elsewhere.

    Args: num_steps: of the run; first_step: where this start goes on from; every_seconds: between plain lines; console,
    write: where to.
    """

    def __init__(
        self,
        num_steps: int,
        first_step: int = 0,
        *,
        every_seconds: float = 5.0,
        console: Console | None = None,
        write: Write = write_line,
    ) -> None:
        self._num_steps, self._every, self._write = num_steps, every_seconds, write
        self._start, self._first = time.monotonic(), first_step
        self._last_line = 0.0
        console = console or Console(stderr=True)
        self._bar: Progress | None = None
        if console.is_terminal:
            columns = (TextColumn("train"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, TextColumn("{task.fields[numbers]}"), console=console)
            self._task = self._bar.add_task("train", total=num_steps, completed=first_step, numbers="")
            self._bar.start()

    def on_step(self, report: StepReport) -> None:
        now = time.monotonic()
        values = metrics(report)
        numbers = (
            f"loss {report.total:.2f} (class {report.class_:.2f}, mask {report.mask:.2f}, dice {report.dice:.2f}), "
            f"{values['images_per_second']:.1f} images/s, data wait {values['data_wait_share']:.0%}"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=report.step, numbers=numbers)
        elif now - self._last_line >= self._every or report.step == self._num_steps:
            self._last_line = now
            per_step = (now - self._start) / max(report.step - self._first, 1)
            left = per_step * (self._num_steps - report.step)
            self._write(f"train: step {report.step}/{self._num_steps}, {numbers}, {left:.0f} s left")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


class JsonLinesHook:
    """Appends one line per step. Lines of steps after `first_step`, left by a run that was killed, are dropped, so that
    the file always tells one unbroken run."""

    def __init__(self, path: Path, first_step: int = 0, *, with_samples: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in _lines(path) if _step(line) is not None and (_step(line) or 0) <= first_step]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(kept), encoding="utf-8")
        temporary.replace(path)
        self._file = path.open("a", encoding="utf-8")
        self._with_samples = with_samples

    def on_step(self, report: StepReport) -> None:
        record: dict[str, object] = {"step": report.step, "epoch": report.epoch}
        if self._with_samples:
            record["image_ids"] = report.image_ids
        else:
            record |= {**metrics(report), "seconds": report.seconds, "time": time.time(), "skipped": report.is_skipped}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    return path.read_text(encoding="utf-8").splitlines(keepends=True)


def _step(line: str) -> int | None:
    """None for the half line that a kill may leave at the end."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return None


class Writer(Protocol):
    """TensorBoard's SummaryWriter, or anything with these methods."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None: ...

    def add_image(self, tag: str, img_tensor: NDArray[np.uint8], global_step: int, *, dataformats: str) -> None:
        """A picture; `dataformats` names its axes, here always "HWC"."""
        ...

    def close(self) -> None: ...


class ScalarsHook:
    """A step's numbers, every `every` steps, to each writer."""

    def __init__(self, writers: Sequence[Writer], every: int = 10) -> None:
        self._writers, self._every = tuple(writers), every

    def on_step(self, report: StepReport) -> None:
        if report.step % self._every == 0:
            for writer in self._writers:
                for name, value in metrics(report).items():
                    writer.add_scalar(f"train/{name}", value, report.step)

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


class AlertHook:
    """A line when a step is skipped for a non-finite loss, and when the share of time spent waiting for data passes
    `max_data_wait` over the last `window` steps (told again only after it has been below). The first `warm_up` steps of
    a start don't count for the waiting: the encoders are being built and nothing is on its way yet."""

    def __init__(
        self, *, max_data_wait: float = 0.1, window: int = 20, warm_up: int = 20, write: Write = write_line
    ) -> None:
        self._max, self._write = max_data_wait, write
        self._times: deque[tuple[float, float]] = deque(maxlen=window)
        self._warm_up_left = warm_up
        self._is_told = False
        self._num_skipped = 0

    def on_step(self, report: StepReport) -> None:
        if report.is_skipped:
            self._num_skipped += 1
            self._write(
                f"ALERT: step {report.step}: loss or gradient is not finite, skipped ({self._num_skipped} so far)"
            )
        if self._warm_up_left > 0:
            self._warm_up_left -= 1
            return
        self._times.append((report.data_seconds, report.seconds))
        share = sum(data for data, _ in self._times) / max(sum(whole for _, whole in self._times), 1e-9)
        is_over = len(self._times) == self._times.maxlen and share > self._max
        if is_over and not self._is_told:
            self._write(f"ALERT: step {report.step}: {share:.0%} of the last {len(self._times)} steps waited for data")
        self._is_told = is_over

    def close(self) -> None:
        """Nothing is open."""

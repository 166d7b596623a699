"""Progress as plain lines a few seconds apart, and the same numbers as JSON lines in the run's folder."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path


class StageProgress:
    """Counts what one stage has done.

    Args:
        stage: its name, the first word of every line.
        total: how many there will be, None when not known.
        unit: of what is counted, in the plural.
        log_path: JSON lines {"time", "stage", "done", "total", "seconds", "per_second", "unit", …}, appended.
        interval_seconds: between two lines.
    """

    def __init__(
        self,
        stage: str,
        total: int | None = None,
        unit: str = "images",
        log_path: Path | None = None,
        interval_seconds: float = 5.0,
        write: Callable[[str], object] | None = None,
    ) -> None:
        self.stage, self.total, self.unit = stage, total, unit
        self.log_path = log_path
        self.interval_seconds = interval_seconds
        self._write = write or sys.stderr.write
        self._start = time.monotonic()
        self._last_line = self._start
        self._done = 0

    @property
    def done(self) -> int:
        return self._done

    @property
    def seconds(self) -> float:
        """Since the stage began."""
        return time.monotonic() - self._start

    def add(self, count: int = 1, **details: float) -> None:
        """Counts, and writes a line when the last one is old enough. `details` go into line and log as they are."""
        self._done += count
        if time.monotonic() - self._last_line >= self.interval_seconds:
            self._emit(details)

    def finish(self, **details: float) -> None:
        """The last line of the stage."""
        self._emit(details)

    def _emit(self, details: dict[str, float]) -> None:
        self._last_line = time.monotonic()
        rate = self._done / max(self.seconds, 1e-9)
        of_total = f"/{self.total}" if self.total is not None else ""
        extra = "".join(f", {name} {value:.4g}" for name, value in details.items())
        count = f"{self._done}{of_total} {self.unit}"
        self._write(f"{self.stage}: {count} in {self.seconds:.0f} s, {rate:.1f} {self.unit}/s{extra}\n")
        if self.log_path is not None:
            self.log_path.parent.mkdir(parents=True, exist_ok=True)
            record = {
                "time": time.time(),
                "stage": self.stage,
                "done": self._done,
                "total": self.total,
                "seconds": round(self.seconds, 3),
                "per_second": round(rate, 3),
                "unit": self.unit,
                **details,
            }
            with self.log_path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

"""Runs a step and remembers what it took, so that a second demo is fast and its report still tells the times."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from frozenseg.errors import FrozenSegError
from pipelines.demo.report import StageRecord
from pipelines.demo.stages import Stage

ROOT = Path(__file__).resolve().parents[2]


class StageFailedError(FrozenSegError):
    """A step of the demo ended with an error; its own message stands above."""


def write_text(path: Path, text: str) -> None:
    """Writes a text whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


class StageLog:
    """`stages.json` in the demo's folder: command -> record of the run that completed it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "stages.json"

    def _read(self) -> dict[str, dict[str, Any]]:
        if not self._path.is_file():
            return {}
        records: dict[str, dict[str, Any]] = json.loads(self._path.read_text(encoding="utf-8"))
        return records

    def find(self, stage: Stage) -> StageRecord | None:
        """The record of this very command, if what it made is still there."""
        known = self._read().get(shlex.join(stage.command))
        return StageRecord(**{**known, "resumed": True}) if known is not None and stage.makes.exists() else None

    def keep(self, stage: Stage, record: StageRecord) -> None:
        """Adds a record."""
        records = {**self._read(), shlex.join(stage.command): dataclasses.asdict(record)}
        write_text(self._path, json.dumps(records, indent=1))


def shown_command(command: Sequence[str]) -> str:
    """The command as a user would type it in an activated environment."""
    first = Path(command[0]).name
    return shlex.join(["python" if first.startswith("python") else first, *command[1:]])


def run_stage(stage: Stage, log: StageLog) -> StageRecord:
    """Runs the step's command unless it has been run to its end before.

    Raises:
        StageFailedError: the command failed; the next demo goes on from here.
    """
    known = log.find(stage)
    if known is not None:
        return known
    started = time.monotonic()
    # DeepSpeed looks for an accelerator by itself and takes half a minute to find none.
    environment = {"DS_ACCELERATOR": "cpu", **os.environ, "PYTHONUNBUFFERED": "1"}
    code = subprocess.run(stage.command, cwd=ROOT, env=environment, check=False).returncode
    if code != 0:
        raise StageFailedError(
            f"the step {stage.name!r} failed with exit code {code}; mend that and run the demo again"
        )
    seconds = time.monotonic() - started
    command = shown_command(stage.command)
    record = StageRecord(name=stage.name, command=command, seconds=seconds, items=stage.items, unit=stage.unit)
    log.keep(stage, record)
    return record

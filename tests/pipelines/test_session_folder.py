"""A temporary folder outlives neither its process nor, when that was killed, the next one's start."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines.session_folder import session_folder

CODE = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from pipelines.session_folder import session_folder
print(session_folder("mine-"), flush=True)
sys.stdin.read()
"""


@contextmanager
def owner(temporary: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process with a folder of its own; it ends when its input does."""
    command = [sys.executable, "-c", CODE, str(temporary)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())


def test_a_killed_process_s_folder_goes_with_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "mine-without-lock").mkdir()
    (tmp_path / "another").mkdir()
    with owner(tmp_path) as (killed, left), owner(tmp_path) as (alive, kept):
        assert left.is_dir()
        killed.kill()
        killed.wait()
        folder = session_folder("mine-")
        assert not left.exists()
        assert {path.name for path in tmp_path.iterdir()} == {"mine-without-lock", "another", kept.name, folder.name}
        alive.communicate()
    assert not kept.exists(), "a process that ends removes its own"

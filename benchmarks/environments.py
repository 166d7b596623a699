"""Environments of their own for packages whose pins clash with ours, kept between runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


class CannotInstallError(RuntimeError):
    """Packages that cannot be had here."""


def environment_with(folder: Path, *requests: Sequence[str]) -> Path:
    """The Python of an environment in which each request, arguments of an install command, was installed.

    Raises:
        CannotInstallError: with the end of what the installer says.
    """
    python = folder / "bin" / "python"
    if not _is_done(folder, requests):
        with_uv = shutil.which("uv") is not None
        subprocess.run([sys.executable, "-m", "venv", folder, *(["--without-pip"] if with_uv else [])], check=True)
        _install(folder, ["--python", str(python)], [str(python)], requests)
    return python


def folder_with(folder: Path, *requests: Sequence[str]) -> Path:
    """A folder for PYTHONPATH, before the packages that this environment has. Raises like `environment_with`."""
    if not _is_done(folder, requests):
        folder.mkdir(parents=True)
        _install(
            folder, ["--python", sys.executable], [sys.executable], [("--target", str(folder), *r) for r in requests]
        )
        (folder / "done").write_text(repr(requests))
    return folder


def _is_done(folder: Path, requests: Sequence[Sequence[str]]) -> bool:
    done = folder / "done"
    if done.exists() and done.read_text() == repr(tuple(requests)):
        return True
    shutil.rmtree(folder, ignore_errors=True)
    return False


def _install(folder: Path, for_uv: list[str], for_pip: list[str], requests: Sequence[Sequence[str]]) -> None:
    for request in requests:
        if shutil.which("uv") is not None:
            command = ["uv", "pip", "install", *for_uv, *request]
        else:
            command = [*for_pip, "-m", "pip", "install", *request]
        finished = subprocess.run(command, capture_output=True, text=True)
        if finished.returncode != 0:
            raise CannotInstallError(f"packages cannot be installed here: {finished.stderr.strip()[-300:]}")
    (folder / "done").write_text(repr(tuple(requests)))

"""Packages whose pins clash with ours, for tests: skips the test where packages cannot be had."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import environments


def environment_with(folder: Path, *requests: Sequence[str]) -> Path:
    """The Python of an environment in which each request, arguments of an install command, was installed."""
    try:
        return environments.environment_with(folder, *requests)
    except environments.CannotInstallError as error:
        pytest.skip(str(error))


def folder_with(folder: Path, *requests: Sequence[str]) -> Path:
    """A folder for PYTHONPATH, before the packages that this environment has."""
    try:
        return environments.folder_with(folder, *requests)
    except environments.CannotInstallError as error:
        pytest.skip(str(error))

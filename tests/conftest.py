"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from pathlib import Path

import pytest
import torch

from serve import proxy

CHECKOUT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("FROZENSEG_SHARED", CHECKOUT.parent / "shared"))


RAY_FOLDER = Path(tempfile.gettempdir()) / f"frozenseg-tests-{os.getpid()}"


def pytest_configure() -> None:
    # Two spinning thread pools on a small machine cost more than they give, and exact comparisons need a fixed count.
    torch.set_num_threads(int(os.environ.get("FROZENSEG_TEST_THREADS", "1")))
    # Ray settles its authentication at its first import, in whichever test that is: a token of this run's own, nothing
    # in the home folder, no calls home.
    RAY_FOLDER.mkdir(mode=0o700, exist_ok=True)
    token = RAY_FOLDER / "token"
    token.write_text(secrets.token_hex(32))
    os.environ.update(
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN_PATH=str(token),
        RAY_USAGE_STATS_ENABLED="0",
        RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
        OMP_NUM_THREADS="1",
    )
    # A proxy takes its middleware from the environment of its Ray, and the first test with Ray starts it for all.
    proxy.install()


def pytest_unconfigure() -> None:
    shutil.rmtree(RAY_FOLDER, ignore_errors=True)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of golden outputs, samples and published lists that lies beside a checkout, not in it."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the folder 'shared' beside the checkout (or FROZENSEG_SHARED); none at {SHARED}")
    return SHARED

"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

CHECKOUT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("FROZENSEG_SHARED", CHECKOUT.parent / "shared"))


def pytest_configure() -> None:
    # Two spinning thread pools on a small machine cost more than they give, and exact comparisons need a fixed count.
    torch.set_num_threads(int(os.environ.get("FROZENSEG_TEST_THREADS", "1")))


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of golden outputs, samples and published lists that lies beside a checkout, not in it."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the folder 'shared' beside the checkout (or FROZENSEG_SHARED); none at {SHARED}")
    return SHARED

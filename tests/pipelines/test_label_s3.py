"""Labeling from an object store to it, with a real client and a local server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.segmenter_pool import SegmenterSource
from tests.campaigns.label_kills import make_images


@pytest.mark.slow
def test_labels_from_s3_to_s3(tiny_source: SegmenterSource, tmp_path: Path, s3_environment: dict[str, str]) -> None:
    """Against moto's server: a folder, a tar and a Parquet file, each run twice."""
    make_images(tmp_path / "images", 5)
    script = Path(__file__).with_name("s3_script.py")
    vocabulary = "cat; dog,puppy; sky(stuff)"
    command = [sys.executable, str(script), tiny_source.model, str(tmp_path / "images"), vocabulary]
    finished = subprocess.run(command, env=s3_environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-3000:]
    found = json.loads(finished.stdout.splitlines()[-1])
    assert set(found) == {"folder", "tars", "tables"}
    for outcome in found.values():
        assert outcome["labelled"] == [5, 0]
        assert outcome["segments"] == found["folder"]["segments"]
        assert outcome["check"] == 0
        assert outcome["temporary"] == []

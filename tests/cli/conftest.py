"""A tiny model folder with embedded encoders, and pictures."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frozenseg.model import FrozenSeg, RandomWeightsWarning, build_model, save_model
from tests.model.tiny import tiny_spec


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that says its weights are random."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RandomWeightsWarning)
        model = build_model(tiny_spec())
    save_model(model, folder)
    return folder


@pytest.fixture(scope="session")
def trained_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, its encoders stored as files, so that nothing counts as random."""
    folder = tmp_path_factory.mktemp("models") / "trained"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RandomWeightsWarning)
        model = build_model(tiny_spec())
    spec = model.spec
    assert spec.sam is not None
    spec = dataclasses.replace(
        spec,
        clip=dataclasses.replace(spec.clip, source="file", location="clip.safetensors"),
        sam=dataclasses.replace(spec.sam, source="file", location="sam.safetensors"),
    )
    save_model(FrozenSeg(model.clip, model.sam, model.decoder, spec), folder)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures in a folder and its sub-folder, two of them with the same stem."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.jpg", "more/a.png")):
        small = np.random.default_rng(number).integers(0, 256, (3, 5, 3), dtype=np.uint8)
        Image.fromarray(small).resize((80, 48), Image.Resampling.BICUBIC).save(folder / name)
    return folder

"""Released checkpoints: every tensor arrives, every stranger is named, nothing is executed."""

from __future__ import annotations

import gc
import importlib.util
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from frozenseg.cli import main
from frozenseg.decoder import DecoderConfig, MaskDecoder, decoder_key
from frozenseg.errors import MissingPathError, UserInputError
from frozenseg.model import read_spec
from frozenseg.model.convert import convert_checkpoint
from tests.model.published import published_state

# Widths of OpenAI's RN50, so that a known CLIP fits, and everything else small.
SMALL = {
    "clip_channels": (256, 512, 1024, 2048), "embedding_dim": 1024, "hidden_dim": 32, "mask_dim": 32, "num_queries": 7,
    "num_layers": 4, "feedforward_dim": 48, "pixel_decoder_layers": 2, "pixel_decoder_feedforward_dim": 40,
    "num_points": 2, "sam_memory": "published",
}  # fmt: skip
FCCLIP = DecoderConfig(**SMALL, sam_channels=0, query_injector_layers=(), feature_injector_layers=())
FROZENSEG = DecoderConfig(**SMALL, sam_channels=32, query_injector_layers=(2,), feature_injector_layers=(0, 3))


def released(config: DecoderConfig) -> dict[str, Tensor]:
    torch.manual_seed(5)
    state = {key: torch.randn_like(tensor) for key, tensor in published_state(MaskDecoder(config), config).items()}
    return {**state, "criterion.empty_weight": torch.ones(134)}


@pytest.mark.parametrize("config", [FCCLIP, FROZENSEG], ids=["fcclip", "frozenseg"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_every_tensor_arrives(tmp_path: Path, config: DecoderConfig, wrapped: bool) -> None:
    state = released(config)
    content: dict[str, Any] = dict(state)
    if wrapped:
        optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": np.float64(1e-4)}]}
        content = {"model": state, "optimizer": optimizer, "iteration": 9, "best": np.float32(0.5), "n": np.int64(3)}
    torch.save(content, tmp_path / "released.pth")
    spec = convert_checkpoint(tmp_path / "released.pth", tmp_path / "m")
    assert spec.decoder == config
    assert spec.clip.architecture == "RN50-quickgelu"
    assert (spec.sam is None) == (config is FCCLIP)
    assert read_spec(tmp_path / "m") == spec
    tensors = load_file(tmp_path / "m" / "decoder.safetensors")
    expected = {decoder_key(key): tensor for key, tensor in state.items() if key != "criterion.empty_weight"}
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[str(key)], tensor) for key, tensor in expected.items())


def test_the_format_before_torch_1_6(tmp_path: Path) -> None:
    torch.save(released(FCCLIP), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert convert_checkpoint(tmp_path / "old.pth", tmp_path / "m").name == "fc-clip"


def without(state: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if part not in key}


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda s: {**s, "sem_seg_head.extra.weight": torch.zeros(1)}, "no place for 'sem_seg_head.extra.weight'"),
        (lambda s: {**s, "unheard.of": torch.zeros(1)}, "no place for 'unheard.of'"),
        (lambda s: without(s, "mask_embed.layers.2.bias"), "mask_embedding.layers.2.bias is missing"),
        (lambda s: without(s, "void_embedding"), "lacks 'void_embedding.weight'"),
        (lambda s: {**s, "sem_seg_head.pixel_decoder.adapter_1.weight": torch.zeros(32, 9, 1, 1)}, "no known CLIP"),
        (
            lambda s: {**s, "sem_seg_head.predictor.query_embed.weight": torch.zeros(3, 32)},
            r"query_position.weight has shape \(3, 32\), expected \(7, 32\)",
        ),
        (lambda s: {"backbone.clip_model.logit_scale": torch.zeros(())}, "no key of its decoder"),
        (lambda s: {**s, "backbone.clip_model.logit_scale": torch.zeros(())}, "CLIP weights don't fit"),
        (lambda s: {**s, "sam.pixel_decoder": torch.zeros(1)}, "holds a SAM but no SAM branch"),
        (lambda s: {}, "found something else"),
        (lambda s: {"model": {"a": "text"}}, "'a' is no tensor"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_written(tmp_path: Path, change: Any, part: str) -> None:
    torch.save(change(released(FCCLIP)), tmp_path / "released.pth")
    with pytest.raises(UserInputError, match=part):
        convert_checkpoint(tmp_path / "released.pth", tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_file_with_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"model": released(FCCLIP), "hook": Trap()}, tmp_path / "evil.pth")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Trap(), protocol=2))
    for name in ("evil.pth", "plain.pkl"):
        assert main(["convert", str(tmp_path / name), "--to", str(tmp_path / "m")]) == 2
        assert "cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(MissingPathError):
        convert_checkpoint(tmp_path / "nowhere.pth", tmp_path / "m")
    torch.save(released(FCCLIP), tmp_path / "released.pth")
    assert main(["convert", str(tmp_path / "released.pth"), "--to", str(tmp_path / "m"), "--with-encoders"]) == 2
    assert "holds no encoder weights" in capsys.readouterr().err


LAYOUTS = ["fcclip_convnext_large", "frozenseg_convnext_large", "fcclip_rn50x64", "frozenseg_rn50x64"]


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("name", LAYOUTS)
def test_files_of_the_released_layouts(shared_dir: Path, tmp_path: Path, name: str) -> None:
    """The whole file, encoders and all, one of 1.5 to 3 GB at a time."""
    parity = shared_dir / "parity"
    fill = load_module(parity / "fill.py").fill
    layout = json.loads((parity / f"f_layout_{name}.json").read_text())["keys"]
    state = {key: torch.from_numpy(value(fill, key, entry["shape"])) for key, entry in layout.items()}
    wrapped = {"model": state, "optimizer": {"lr": np.float64(0.1)}, "iteration": np.int64(1)}
    torch.save(wrapped if "frozenseg" in name else state, tmp_path / "released.pth")
    del state, wrapped
    gc.collect()
    spec = convert_checkpoint(tmp_path / "released.pth", tmp_path / "m", with_encoders=True)
    (tmp_path / "released.pth").unlink()
    assert spec.clip.architecture == ("convnext_large_d_320" if "convnext" in name else "RN50x64-quickgelu")
    assert (spec.sam is not None) == ("frozenseg" in name)
    found = 0
    for file, prefix in (("clip.safetensors", "backbone.clip_model."), ("sam.safetensors", "sam.")):
        if not (tmp_path / "m" / file).is_file():
            assert file == "sam.safetensors"
            continue
        with safe_open(tmp_path / "m" / file, "pt") as tensors:
            keys = list(tensors.keys())
            found += len(keys)
            for key in keys[:: max(1, len(keys) // 25)]:
                expected = torch.from_numpy(value(fill, prefix + key, layout[prefix + key]["shape"]))
                assert torch.equal(tensors.get_tensor(key), expected), key
    decoder = load_file(tmp_path / "m" / "decoder.safetensors")
    for key, entry in layout.items():
        ours = decoder_key(key)
        if ours is not None:
            assert torch.equal(decoder[ours], torch.from_numpy(value(fill, key, entry["shape"]))), key
    assert found + len(decoder) + 1 == len(layout)  # criterion.empty_weight is dropped


def value(fill: Any, key: str, shape: list[int]) -> np.ndarray:
    """fill.py's values; tensors of more than two million numbers repeat a part of theirs, which is as good a check
    of where they go and costs a tenth of the time."""
    size = int(np.prod(shape))
    if size <= 2_000_000:
        return np.asarray(fill(key, shape))
    return np.resize(fill(key, (500_000,)), shape).astype(np.float32)


def load_module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

"""Model folders: what is written is what is read, whole or not at all, and wrong folders are refused by name."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path

import pytest
import torch

from frozenseg.errors import FormatVersionError, MissingPathError, UserInputError
from frozenseg.model import (
    FrozenSeg,
    ModelSpec,
    RandomWeightsWarning,
    WeightsSource,
    build_model,
    frozenseg_spec,
    load_model,
    read_spec,
    save_model,
)
from frozenseg.types import Batch
from frozenseg.vocabulary import parse_vocabulary
from tests.model.tiny import tiny_spec


def quiet_build(spec: ModelSpec) -> FrozenSeg:
    with pytest.warns(RandomWeightsWarning, match="RANDOM WEIGHTS"):
        return build_model(spec)


@pytest.fixture(scope="module")
def model() -> FrozenSeg:
    return quiet_build(tiny_spec()).eval()


@pytest.fixture(scope="module")
def batch() -> Batch:
    images = torch.randint(0, 256, (2, 3, 64, 96), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return Batch(image_ids=("a", "b"), images=images, valid_sizes=torch.tensor([[64, 90], [50, 96]]))


def reload(folder: Path) -> FrozenSeg:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RandomWeightsWarning)
        return load_model(folder)


def test_a_reloaded_model_gives_the_same_numbers(model: FrozenSeg, batch: Batch, tmp_path: Path) -> None:
    save_model(model, tmp_path / "m")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["MODEL_CARD.md", "config.json", "decoder.safetensors"]
    again = reload(tmp_path / "m")
    assert again.spec == model.spec
    vocabulary = parse_vocabulary("cat; house,home")
    first = model(batch, model.text(vocabulary))
    second = again(batch, again.text(vocabulary))
    assert torch.equal(first.mask_logits, second.mask_logits)
    assert torch.equal(first.class_logits, second.class_logits)


@pytest.mark.parametrize("half", [False, True])
def test_embedded_encoders_travel_with_the_folder(model: FrozenSeg, batch: Batch, tmp_path: Path, half: bool) -> None:
    own = FrozenSeg(model.clip, model.sam, model.decoder, as_files(model.spec))
    save_model(own, tmp_path / "m", half=half)
    again = reload(tmp_path / "m")
    assert again.spec.clip.location == "clip.safetensors"
    assert again.spec.notice == ""
    assert next(again.clip.parameters()).dtype == torch.float32
    difference = (model.encode(batch).clip_dense - again.encode(batch).clip_dense).abs().max()
    assert float(difference) <= (0.05 if half else 0.0)
    assert again.clip.weights_hash != model.clip.weights_hash or not half
    save_model(again, tmp_path / "copy")  # the references are relative: the copy must stand on its own
    assert reload(tmp_path / "copy").clip.weights_hash == again.clip.weights_hash
    with (tmp_path / "m" / "sam.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\x00\x01\x02\x03")
    with pytest.raises(UserInputError, match=r"sam\.safetensors: its sha256"):
        reload(tmp_path / "m")


def as_files(spec: ModelSpec) -> ModelSpec:
    assert spec.sam is not None
    clip = dataclasses.replace(spec.clip, source="file", location="clip.safetensors")
    sam = dataclasses.replace(spec.sam, source="file", location="sam.safetensors")
    return dataclasses.replace(spec, clip=clip, sam=sam)


def test_random_weights_are_said_everywhere(model: FrozenSeg, tmp_path: Path) -> None:
    save_model(model, tmp_path / "m")
    assert "RANDOM WEIGHTS" in (tmp_path / "m" / "MODEL_CARD.md").read_text()
    assert "CLIP encoder, SAM encoder" in read_spec(tmp_path / "m").notice
    assert frozenseg_spec().random_parts == ("decoder",)
    with pytest.warns(RandomWeightsWarning):
        forced = build_model(as_files(tiny_spec()), weights=WeightsSource.RANDOM)
    assert forced.spec.clip.source == "random"


def test_saving_replaces_a_model_and_nothing_else(model: FrozenSeg, tmp_path: Path) -> None:
    save_model(model, tmp_path / "m", notes="first")
    save_model(model, tmp_path / "m", notes="second")
    assert read_spec(tmp_path / "m").notes == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    other = tmp_path / "photos"
    other.mkdir()
    (other / "a.txt").write_text("mine")
    with pytest.raises(UserInputError, match="no model folder"):
        save_model(model, other)
    assert [p.name for p in other.iterdir()] == ["a.txt"]


def test_a_failed_save_leaves_the_old_model(model: FrozenSeg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(model, tmp_path / "m", notes="old")

    def fails(*_: object) -> str:
        raise OSError("disk full")

    monkeypatch.setattr("frozenseg.model.folder.model_card", fails)
    with pytest.raises(OSError, match="disk full"):
        save_model(model, tmp_path / "m", notes="new")
    assert read_spec(tmp_path / "m").notes == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize(
    ("change", "error", "part"),
    [
        ({"format_version": 99}, FormatVersionError, "format version 99, but this frozenseg reads version 1"),
        ({"format_version": None}, FormatVersionError, "format version None"),
        ({"decodr": {}}, UserInputError, "did you mean 'decoder'"),
        (
            {"clip": {"architecture": "no_such_clip", "source": "random", "location": "0"}},
            UserInputError,
            "no_such_clip",
        ),
        ({"sam": None}, UserInputError, "injectors"),
    ],
)
def test_folders_that_cannot_be_read(
    model: FrozenSeg, tmp_path: Path, change: dict[str, object], error: type[UserInputError], part: str
) -> None:
    save_model(model, tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(error, match=part):
        reload(tmp_path / "m")


def test_missing_files_and_foreign_decoders(model: FrozenSeg, tmp_path: Path) -> None:
    with pytest.raises(MissingPathError, match="nowhere"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(MissingPathError, match=r"holds no config\.json"):
        load_model(tmp_path)
    save_model(model, tmp_path / "m")
    decoder = tmp_path / "m" / "decoder.safetensors"
    from safetensors.torch import load_file, save_file

    tensors = load_file(decoder)
    first = next(iter(tensors))
    save_file({**{k: v for k, v in tensors.items() if k != first}, "extra": torch.zeros(1)}, decoder)
    with pytest.raises(UserInputError, match=f"{first} is missing; extra is unknown"):
        reload(tmp_path / "m")
    decoder.write_bytes(b"rubbish")
    with pytest.raises(UserInputError, match="cannot be read"):
        reload(tmp_path / "m")
    decoder.unlink()
    with pytest.raises(MissingPathError, match=r"decoder\.safetensors is missing"):
        reload(tmp_path / "m")


def test_pickles_are_never_executed(tmp_path: Path) -> None:
    import pickle

    from frozenseg.model.load_encoders import read_tensors

    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Trap(), protocol=2))
    torch.save({"a": Trap()}, tmp_path / "evil2.pth")
    for name in ("evil.pth", "evil2.pth"):
        with pytest.raises(UserInputError, match="cannot be read"):
            read_tensors(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_text_cache_is_by_content_and_bounded(model: FrozenSeg, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = model.clip.encode_text
    monkeypatch.setattr(model.clip, "encode_text", lambda texts: (calls.append(len(texts)), original(texts))[1])
    monkeypatch.setattr("frozenseg.model.frozenseg.NUM_CACHED_VOCABULARIES", 2)
    one = model.text(parse_vocabulary("owl; sea(stuff)"))
    count = len(calls)
    assert model.text(parse_vocabulary(" owl ;sea")) is one  # what a category is changes no text row
    assert len(calls) == count
    for text in ("bee", "wasp"):
        model.text(parse_vocabulary(text))
    assert model.text(parse_vocabulary("owl; sea(stuff)")) is not one


def test_seen_is_decided_by_names(model: FrozenSeg) -> None:
    assert model.seen(parse_vocabulary("puppy; cow; sky,heaven")).tolist() == [True, False, True]
    unknown = FrozenSeg(model.clip, model.sam, model.decoder, dataclasses.replace(model.spec, training_vocabulary=None))
    assert unknown.seen(parse_vocabulary("cat")).tolist() == [False]


def test_only_the_decoder_trains(model: FrozenSeg) -> None:
    trainable = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {"decoder"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_runs_and_stays_near(model: FrozenSeg, batch: Batch, dtype: torch.dtype) -> None:
    low = FrozenSeg(model.clip, model.sam, model.decoder, model.spec, compute_dtype=dtype)
    features = low.encode(batch)
    assert features.clip_dense.dtype == dtype
    exact = model.encode(batch).clip_dense
    error = (features.clip_dense.float() - exact).abs().mean() / exact.abs().mean()
    assert 0 < float(error) < 0.05
    output = low.decode(features, low.text(parse_vocabulary("cat; dog")))
    assert torch.isfinite(output.mask_logits).all()

"""Model folders of every kind: with a SAM of its own for masks, without SAM, and with a broken part."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path

import httpx
import pytest
import torch

import frozenseg
from frozenseg.inference.loading import model_folder
from frozenseg.inference.segmenter import read_image
from frozenseg.model import FrozenSeg, build_model, load_model, save_model
from frozenseg.vocabulary import parse_vocabulary
from serve.parts import Decoder, Encoders, SamMaskMaker, encode_together
from serve.schema import SegmentOptions
from serve.settings import settings_from
from serve.travel import EncodedImage, OtherModelError, check_image, prepare_image
from tests.serve.conftest import ARGUMENTS, free_port
from tests.serve.in_process import serve_in_process


@contextmanager
def served(model: str) -> Iterator[httpx.Client]:
    port = free_port()
    settings = settings_from({**ARGUMENTS, "model": model})
    with (
        serve_in_process(settings, port),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client,
    ):
        yield client


def ask(http: httpx.Client, image: bytes, **options: object) -> httpx.Response:
    data = {"options": json.dumps({"vocabulary": VOCABULARY, "task": "semantic", **options})}
    return http.post("/v1/segment", files={"image": ("a", image)}, data=data)


VOCABULARY = "grass(stuff); sky(stuff); red button; green flag"


@pytest.fixture(scope="module")
def image() -> bytes:
    from serve.catalog import example_png

    return example_png(0)


@pytest.fixture(scope="module")
def separate_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature, with a second SAM for masks whose image encoder has other weights than the features' one."""
    model = load_model(model_folder("miniature"))
    again = load_model(model_folder("miniature"))
    assert again.sam is not None
    assert model.spec.sam is not None
    with torch.no_grad():
        for parameter in again.sam.sam.image_encoder.parameters():
            parameter.mul_(1.02)
    other = replace(model.spec.sam, sha256="")
    spec = replace(model.spec, name="separate", mask_sam=other)
    folder = tmp_path_factory.mktemp("models") / "separate"
    save_model(FrozenSeg(model.clip, model.sam, model.decoder, spec, mask_sam=again.sam), folder, embed_encoders=True)
    return folder


def test_a_sam_of_its_own_for_masks_serves_the_ensemble(separate_folder: Path, image: bytes) -> None:
    with served(str(separate_folder)) as http:
        assert http.get("/readyz").status_code == HTTPStatus.OK
        answer = ask(http, image, ensemble=True)
        assert answer.status_code == HTTPStatus.OK, answer.text
        assert "sam_masks;dur=" in answer.headers["server-timing"]
        plain = ask(http, image)
    segmenter = frozenseg.load(separate_folder, device="cpu")
    expected = segmenter(image, VOCABULARY, replace(segmenter.options, openseg=True)).semantic()
    areas = {s["category_id"]: s["area"] for s in answer.json()["segments"]}
    assert areas == {int(c): int((expected == c).sum()) for c in expected.unique()}
    assert answer.json()["model"] == plain.json()["model"] == "separate"


def test_the_ensemble_of_a_model_without_sam_is_refused_by_its_field(tmp_path: Path, image: bytes) -> None:
    model = load_model(model_folder("miniature"))
    decoder = replace(model.spec.decoder, sam_channels=0, query_injector_layers=(), feature_injector_layers=())
    spec = replace(model.spec, name="no-sam", sam=None, decoder=decoder)
    save_model(build_model(spec, folder=model_folder("miniature")), tmp_path / "no-sam", embed_encoders=True)
    with served(str(tmp_path / "no-sam")) as http:
        assert http.get("/readyz").status_code == HTTPStatus.OK
        refused = ask(http, image, ensemble=True)
        assert refused.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
        assert refused.json()["errors"][0]["field"] == "options.ensemble"
        assert ask(http, image).status_code == HTTPStatus.OK


def test_parts_change_nothing_that_they_are_handed(separate_folder: Path, image: bytes) -> None:
    """It lies in memory that other parts read, too. torch counts what is done to a tensor in place."""
    options = SegmentOptions(vocabulary=VOCABULARY, ensemble=True)
    for name in ("miniature", str(separate_folder)):
        settings = settings_from({**ARGUMENTS, "model": name})
        maker, decoder = SamMaskMaker.func_or_class(settings), Decoder.func_or_class(settings)
        segmenter = decoder._segmenter
        prepared = prepare_image(read_image(image), segmenter.options)
        [features] = encode_together(segmenter, [prepared])
        encoded = EncodedImage(features=features, geometry=prepared.geometry, seconds=0.0)
        separate = segmenter.model.mask_sam is not None
        masked = maker.masks_of_image(prepared) if separate else maker.masks(encoded)
        handed = [*features.clip_pyramid, features.clip_dense, features.sam, masked.masks.logits, prepared.batch.images]
        before = [(tensor._version, tensor.clone()) for tensor in handed]
        for task in ("panoptic", "semantic", "instance", "proposals"):
            found = decoder.segment(
                encoded, masked, parse_vocabulary(VOCABULARY), options.model_copy(update={"task": task})
            )
            assert found.segments
        again = maker.masks_of_image(prepared) if separate else maker.masks(encoded)
        assert torch.equal(again.masks.logits, masked.masks.logits)
        for tensor, (version, values) in zip(handed, before, strict=True):
            assert tensor._version == version
            assert torch.equal(tensor, values)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("apart", [("cuda", "cuda", "cuda"), ("cuda", "cpu", "cuda"), ("cpu", "cuda", "cpu")])
def test_parts_work_together_wherever_each_runs(apart: tuple[str, str, str], image: bytes) -> None:
    """Encoders, SAM's masks and decoder: what travels lies in ordinary memory."""
    options = SegmentOptions(vocabulary=VOCABULARY, ensemble=True, task="semantic")

    def areas(devices: tuple[str, str, str]) -> dict[int | None, int]:
        of_encoders, of_masks, of_decoder = (
            settings_from({**ARGUMENTS, "model": "miniature", "device": device}) for device in devices
        )
        segmenter = Encoders.func_or_class(of_encoders)._segmenter
        prepared = prepare_image(read_image(image), segmenter.options)
        [features] = encode_together(segmenter, [prepared])
        encoded = EncodedImage(features=features, geometry=prepared.geometry, seconds=0.0)
        masked = SamMaskMaker.func_or_class(of_masks).masks(encoded)
        logits = masked.masks.logits.cpu()
        masked = replace(masked, masks=replace(masked.masks, logits=logits))
        decoder = Decoder.func_or_class(of_decoder)
        found = decoder.segment(encoded, masked, parse_vocabulary(VOCABULARY), options)
        return {segment.category_id: segment.area for segment in found.segments}

    expected, found = areas(("cpu", "cpu", "cpu")), areas(apart)
    assert expected.keys() == found.keys()
    for category, area in expected.items():
        assert found[category] == pytest.approx(area, rel=0.02, abs=100)


def test_every_parts_health_check_runs_its_model(separate_folder: Path) -> None:
    """A part whose weights are gone must fail its check; Serve then replaces it."""
    for name in ("miniature", str(separate_folder)):
        settings = settings_from({**ARGUMENTS, "model": name})
        for part, broken in ((Encoders, "clip"), (SamMaskMaker, "sam"), (Decoder, "decoder")):
            replica = part.func_or_class(settings)
            replica.check_health()
            model = replica._segmenter.model
            module = model.mask_sam if broken == "sam" and model.mask_sam is not None else getattr(model, broken)
            for parameter in module.parameters():
                parameter.data = torch.empty(0)
            with pytest.raises((RuntimeError, IndexError, ValueError)):
                replica.check_health()


def test_a_part_that_does_not_work_makes_the_server_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.exceptions import RayActorError

    def broken(_: object) -> None:
        raise RayActorError

    monkeypatch.setattr(SamMaskMaker.func_or_class, "check_health", broken)
    with served("miniature") as http:
        answer = http.get("/readyz")
        assert answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE
        assert answer.headers["retry-after"]
        assert http.get("/healthz").status_code == HTTPStatus.OK


def test_features_of_another_model_are_told_apart(separate_folder: Path) -> None:
    """While a model is being changed, parts of both are there at once; the request is tried again."""
    settings = settings_from(ARGUMENTS)
    decoder, masks = Decoder.func_or_class(settings), SamMaskMaker.func_or_class(settings)
    image = check_image()
    features = decoder._segmenter.model.encode(image.batch)
    encoded = EncodedImage(features=features, geometry=image.geometry, seconds=0.0)
    vocabulary, options = parse_vocabulary("grass(stuff)"), SegmentOptions(vocabulary="grass(stuff)")
    assert masks.masks(encoded).masks.logits.ndim == 3
    assert decoder.segment(encoded, None, vocabulary, options).model == decoder._segmenter.model.spec.name
    other = replace(features, source=replace(features.source, weights_hash="0" * 64))
    stale = replace(encoded, features=other)
    with pytest.raises(OtherModelError):
        masks.masks(stale)
    with pytest.raises(OtherModelError):
        decoder.segment(stale, None, vocabulary, options)

"""Pictures and vocabularies of every kind through a real, tiny, random model."""

from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import frozenseg
from frozenseg.decoder import MaskDecoder
from frozenseg.encoders import build_sam
from frozenseg.errors import MissingPathError, UserInputError
from frozenseg.inference.loading import resolve_device
from frozenseg.inference.prediction import Prediction, drop_below
from frozenseg.inference.sam_masks import GridSettings
from frozenseg.inference.segmenter import Segmenter
from frozenseg.model import FrozenSeg, RandomWeightsWarning, build_model, save_model
from frozenseg.types import Segment, SegmentationOutput
from tests.model.tiny import TINY_DECODER, TINY_SAM, tiny_spec

VOCABULARY = "cat; dog,puppy; sky(stuff); house"


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RandomWeightsWarning)
        return Segmenter(build_model(tiny_spec()).eval())


def picture(height: int = 48, width: int = 72, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def check(prediction: Prediction, size: tuple[int, int], num_categories: int = 4) -> None:
    """Every kind of result is of the right form at the image's own size."""
    result = prediction.panoptic()
    assert tuple(result.segment_ids.shape) == size
    found = {int(i): int((result.segment_ids == i).sum()) for i in result.segment_ids.unique() if i}
    assert found == {segment.id: segment.area for segment in result.segments}
    assert all(0 <= s.category_id < num_categories and 0 < s.score <= 1 for s in result.segments)
    labels = prediction.semantic()
    assert tuple(labels.shape) == size
    assert int(labels.min()) >= 0
    assert int(labels.max()) < num_categories
    found_instances = prediction.instances()
    assert found_instances.masks.shape[1:] == size
    assert (found_instances.scores.diff() <= 0).all()
    assert tuple(prediction.proposals().shape[1:]) == size


def test_all_results_from_one_forward(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = segmenter.model.encode
    monkeypatch.setattr(segmenter.model, "encode", lambda batch: (calls.append(1), original(batch))[1])
    prediction = segmenter(picture(), VOCABULARY)
    check(prediction, (48, 72))
    assert calls == [1]
    assert "RANDOM WEIGHTS" in prediction.notice
    assert prediction.seen.tolist() == [True, True, True, False]


def test_every_form_of_a_picture_gives_the_same(segmenter: Segmenter, tmp_path: Path) -> None:
    pixels = picture()
    Image.fromarray(pixels).save(tmp_path / "p.png")
    forms = [
        pixels,
        Image.fromarray(pixels),
        torch.from_numpy(pixels.copy()).permute(2, 0, 1),
        tmp_path / "p.png",
        str(tmp_path / "p.png"),
        (tmp_path / "p.png").read_bytes(),
    ]
    scores = [segmenter(form, VOCABULARY).class_scores for form in forms]
    assert all(torch.equal(scores[0], other) for other in scores[1:])


@pytest.mark.parametrize("size", [(32, 32), (1, 40), (33, 500), (400, 37)])
def test_any_size_and_aspect(segmenter: Segmenter, size: tuple[int, int]) -> None:
    check(segmenter(picture(*size), VOCABULARY), size)


def test_4000_pixels(segmenter: Segmenter) -> None:
    prediction = segmenter(picture(4000, 1000), "cat; sky(stuff)")
    assert tuple(prediction.panoptic().segment_ids.shape) == (4000, 1000)


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P", "CMYK", "I;16", "1"])
def test_any_colour_mode(segmenter: Segmenter, mode: str) -> None:
    image = Image.fromarray(picture())
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, format="TIFF" if mode == "CMYK" else "PNG")
    check(segmenter(buffer.getvalue(), VOCABULARY), (48, 72))


def test_exif_rotation_counts(segmenter: Segmenter) -> None:
    image = Image.fromarray(picture())
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", exif=exif)
    check(segmenter(buffer.getvalue(), VOCABULARY), (72, 48))


@pytest.mark.parametrize("vocabulary", ["cat", "sky(stuff)", "voc-20", "猫; ciel étoilé(stuff); a:b (c)"])
def test_vocabularies_of_every_kind(segmenter: Segmenter, vocabulary: str) -> None:
    prediction = segmenter(picture(), vocabulary)
    check(prediction, (48, 72), len(prediction.vocabulary))


def test_a_name_longer_than_the_context_is_named(segmenter: Segmenter) -> None:
    from frozenseg.encoders import TruncatedTextWarning

    with pytest.warns(TruncatedTextWarning, match="very very"):
        check(segmenter(picture(), "very " * 40 + "; cat"), (48, 72), 2)


def test_a_batch_gives_what_single_images_give(segmenter: Segmenter) -> None:
    images = [picture(48, 72, 1), picture(48, 72, 2)]
    together = segmenter.predict_batch(images, VOCABULARY)
    for image, prediction in zip(images, together, strict=True):
        alone = segmenter(image, VOCABULARY)
        assert torch.allclose(alone.class_scores, prediction.class_scores, atol=1e-4)
    mixed = segmenter.predict_batch([picture(48, 72), picture(90, 40)], VOCABULARY)
    check(mixed[0], (48, 72))
    check(mixed[1], (90, 40))


@pytest.mark.parametrize(
    ("image", "error", "part"),
    [
        ("nowhere.png", MissingPathError, r"nowhere\.png does not exist"),
        (b"not a picture", UserInputError, "expected an image"),
        (np.zeros((4, 4, 3), np.float32), UserInputError, "uint8"),
        (np.zeros((0, 4, 3), np.uint8), UserInputError, "expected an array"),
        (torch.zeros(3, 4, 4), UserInputError, "uint8"),
        (torch.zeros(4, 4), UserInputError, "expected a tensor"),
        (3, UserInputError, "found int"),
    ],
)
def test_what_is_no_picture(segmenter: Segmenter, image: object, error: type[Exception], part: str) -> None:
    with pytest.raises(error, match=part):
        segmenter(image, VOCABULARY)  # type: ignore[arg-type]


@pytest.mark.parametrize("vocabulary", ["", " ; ", "cat;;cat", "nowhere.txt"])
def test_vocabularies_that_cannot_be_used(segmenter: Segmenter, vocabulary: str) -> None:
    with pytest.raises(UserInputError):
        segmenter(picture(), vocabulary)


@pytest.mark.parametrize(
    "options", [{"openseg": True}, {"sam_only": True}, {"openseg": True, "sam_panoptic_weight": 0.5}]
)
@pytest.mark.parametrize("found", ["many", "none"])
def test_sam_masks_take_part(segmenter: Segmenter, options: dict[str, object], found: str) -> None:
    every = GridSettings(points_per_side=3, min_predicted_iou=0, min_stability=0, nms_iou=1, max_masks=9)
    nothing = GridSettings(points_per_side=2, min_predicted_iou=1e9)
    with_sam = Segmenter(segmenter.model, grid=every if found == "many" else nothing)
    chosen = dataclasses.replace(segmenter.options, **options, sam_min_probability=0.0)  # type: ignore[arg-type]
    prediction = with_sam(picture(), VOCABULARY, chosen)
    assert prediction.sam is not None
    assert prediction.sam.mask_logits.shape[0] == (9 if found == "many" else 0)
    check(prediction, (48, 72))
    num_proposals = prediction.proposals().shape[0]
    own = 0 if options.get("sam_only") else 6
    assert num_proposals == own + prediction.sam.mask_logits.shape[0]


def test_sam_masks_may_be_none_of_these(segmenter: Segmenter) -> None:
    """Void has a logit of its own among CLIP's: the decoder's learned row, whose sign decides the column's."""
    every = GridSettings(points_per_side=2, min_predicted_iou=0, min_stability=0, nms_iou=1)
    with_sam = Segmenter(segmenter.model, grid=every)
    chosen = dataclasses.replace(segmenter.options, openseg=True)
    void = segmenter.model.decoder.void_embedding.weight.data
    found = []
    for sign in (1, -1):
        void.mul_(sign)
        prediction = with_sam(picture(), VOCABULARY, chosen)
        assert prediction.sam is not None
        found.append(prediction.sam.clip_logits)
    void.mul_(-1)
    assert found[0].shape[1] == 5
    assert torch.equal(found[0][:, :-1], found[1][:, :-1])
    assert found[0][:, -1].abs().max() > 0
    assert torch.allclose(found[0][:, -1], -found[1][:, -1])


def test_masks_of_another_sam(segmenter: Segmenter) -> None:
    model = segmenter.model
    other = FrozenSeg(model.clip, model.sam, model.decoder, model.spec, mask_sam=build_sam(TINY_SAM))
    grid = GridSettings(points_per_side=2, min_predicted_iou=0, min_stability=0, nms_iou=1)
    chosen = dataclasses.replace(segmenter.options, openseg=True)
    first = Segmenter(model, grid=grid)(picture(), VOCABULARY, chosen).sam
    second = Segmenter(other, grid=grid)(picture(), VOCABULARY, chosen).sam
    assert first is not None
    assert second is not None
    assert first.mask_logits.shape == second.mask_logits.shape
    assert not torch.allclose(first.mask_logits, second.mask_logits)


def test_a_model_without_sam_says_so(segmenter: Segmenter) -> None:
    model = segmenter.model
    config = dataclasses.replace(TINY_DECODER, sam_channels=0, query_injector_layers=(), feature_injector_layers=())
    spec = dataclasses.replace(model.spec, sam=None, decoder=config)
    without = Segmenter(FrozenSeg(model.clip, None, MaskDecoder(config), spec).eval())
    check(without(picture(), VOCABULARY), (48, 72))
    with pytest.raises(UserInputError, match="has no SAM"):
        without(picture(), VOCABULARY, dataclasses.replace(without.options, openseg=True))


def test_segments_below_the_score_become_void() -> None:
    ids = torch.tensor([[1, 2], [2, 0]], dtype=torch.int32)
    segments = tuple(Segment(id=i, category_id=0, is_thing=True, score=s, area=1) for i, s in ((1, 0.2), (2, 0.9)))
    result = drop_below(SegmentationOutput(segment_ids=ids, segments=segments), 0.5)
    assert result.segment_ids.tolist() == [[0, 2], [2, 0]]
    assert [s.id for s in result.segments] == [2]


def test_load_from_a_folder(segmenter: Segmenter, tmp_path: Path) -> None:
    save_model(segmenter.model, tmp_path / "m")
    with pytest.warns(RandomWeightsWarning):
        loaded = frozenseg.load(tmp_path / "m", device="cpu")
    assert loaded.options.shortest_side == 64
    first, second = segmenter(picture(), VOCABULARY), loaded(picture(), VOCABULARY)
    assert torch.equal(first.mask_logits, second.mask_logits)
    with pytest.raises(MissingPathError, match="did you mean 'miniature'"):
        frozenseg.load("miniatur")
    with pytest.raises(UserInputError, match="float32, bfloat16"):
        frozenseg.load(tmp_path / "m", dtype="int8")


def test_devices_are_named() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(UserInputError, match="expected auto, cpu, cuda or mps"):
        resolve_device("gpu")


HEAVY = ("torch", "open_clip", "timm", "ray", "deepspeed", "fastapi", "webdataset", "segment_anything")


def test_importing_the_package_is_cheap() -> None:
    code = f"import sys, frozenseg; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_using_the_library_needs_nothing_of_the_cluster() -> None:
    code = (
        "import sys, frozenseg.inference.loading; "
        "print(sorted({'ray', 'deepspeed', 'fastapi', 'webdataset'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"

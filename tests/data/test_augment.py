from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from frozenseg.data import Jitter, JitterConfig, collate, resize_for_test, size_for_test
from frozenseg.errors import UserInputError
from frozenseg.types import ImageSample, PanopticAnnotation, PanopticTarget, TruthSegment


def scene(height: int, width: int, num_segments: int = 5, seed: int = 0) -> tuple[ImageSample, PanopticAnnotation]:
    """Every segment has its own flat color, so image and masks can be compared after any change of geometry."""
    rng = np.random.default_rng(seed)
    ids = np.zeros((height, width), dtype=np.int32)
    image = np.zeros((height, width, 3), dtype=np.uint8)
    segments = []
    for number in range(num_segments):
        top, left = rng.integers(0, height - 8), rng.integers(0, width - 8)
        where = np.s_[top : top + height // 2, left : left + width // 2]
        ids[where] = 1000 + number
        image[where] = (10 + 40 * number, 240 - 30 * number, 7)
    for number in range(num_segments):
        if (ids == 1000 + number).any():
            segments.append(TruthSegment(id=1000 + number, category_id=number, is_thing=number % 2 == 0))
    sample = ImageSample(image_id="9", image=torch.from_numpy(image).permute(2, 0, 1), original_size=(height, width))
    return sample, PanopticAnnotation(segment_ids=torch.from_numpy(ids), segments=tuple(segments))


def test_same_seed_epoch_and_image_give_the_same_crop() -> None:
    sample, annotation = scene(60, 80)
    jitter = Jitter(JitterConfig(crop_size=64))
    image, target = jitter(sample, annotation, 3, 5)
    again, target_again = Jitter(JitterConfig(crop_size=64))(sample, annotation, 3, 5)
    assert torch.equal(image, again)
    assert torch.equal(target.masks, target_again.masks)
    plans = {jitter.plan(name, (60, 80), seed, epoch) for name in "ab" for seed in (0, 1) for epoch in (0, 1)}
    assert len(plans) == 8


def test_known_plan() -> None:
    """Written down once: a change of numpy or of the hash that would silently change every training run fails here."""
    plan = Jitter().plan("142238", (427, 640), 0, 0)
    assert (plan.flip, plan.top, plan.left, plan.height, plan.width, plan.size) == (True, 0, 0, 427, 640, (387, 579))


@given(height=st.integers(20, 90), width=st.integers(20, 90), epoch=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_masks_stay_on_their_segments(height: int, width: int, epoch: int) -> None:
    sample, annotation = scene(height, width)
    jitter = Jitter(JitterConfig(crop_size=64, min_zoom=0.5))
    image, target = jitter(sample, annotation, 0, epoch)
    assert image.shape == (3, 64, 64)
    assert target.masks.shape == (len(target.category_ids), 64, 64)
    assert bool(target.masks.any(dim=(1, 2)).all())
    assert int(target.masks.sum(0).max() if len(target.masks) else 0) <= 1
    for mask, category in zip(target.masks, target.category_ids.tolist(), strict=True):
        # A source pixel is up to 6.4 wide here, and bilinear mixes over it at a border; inside, the color must be the segment's own.
        inner = _erode(mask)
        color = torch.tensor([10 + 40 * category, 240 - 30 * category, 7], dtype=torch.uint8)
        assert bool((image[:, inner] == color[:, None]).all())


def _erode(mask: torch.Tensor) -> torch.Tensor:
    padded = torch.nn.functional.pad(mask[None, None].float(), (4, 4, 4, 4))
    return (-torch.nn.functional.max_pool2d(-padded, 9, 1))[0, 0] > 0.5


def test_padding_is_gray_and_void() -> None:
    sample, annotation = scene(30, 60)
    jitter = Jitter(JitterConfig(crop_size=64, min_zoom=0.5, max_zoom=0.5, padding_value=128))
    image, target = jitter(sample, annotation, 0, 0)
    assert bool((image[:, 16:] == 128).all())
    assert bool((image[:, :, 32:] == 128).all())
    assert not bool(target.masks[:, 16:].any())
    assert not bool(target.masks[:, :, 32:].any())
    assert bool((image[2, :16, :32] < 10).all())


def test_zoom_spans_the_configured_range() -> None:
    jitter = Jitter(JitterConfig(crop_size=100, min_zoom=0.1, max_zoom=2.0))
    plans = [jitter.plan("x", (100, 100), 0, epoch) for epoch in range(2000)]
    zooms = [plan.size[0] / plan.height for plan in plans]
    assert 0.09 < min(zooms) < 0.12
    assert 1.95 < max(zooms) < 2.05
    assert abs(float(np.mean(zooms)) - 1.05) < 0.05
    assert 0.45 < float(np.mean([plan.flip for plan in plans])) < 0.55
    # The window wanders over the whole range it has.
    twice = [plan for plan, zoom in zip(plans, zooms, strict=True) if zoom > 1.9]
    assert min(plan.top for plan in twice) < 5
    assert max(plan.top + plan.height for plan in twice) > 95


def test_without_crop_it_is_the_plain_recipe() -> None:
    """Flip, Pillow's bilinear resize of the whole image, padding: within one level of rounding."""
    rng = np.random.default_rng(1)
    pixels = np.array(Image.fromarray(rng.integers(0, 255, (12, 20, 3), dtype=np.uint8)).resize((200, 120)))
    sample = ImageSample(image_id="5", image=torch.from_numpy(pixels).permute(2, 0, 1), original_size=(120, 200))
    ids = rng.integers(0, 4, (12, 20)).repeat(10, 0).repeat(10, 1).astype(np.int32)
    segments = tuple(TruthSegment(id=i, category_id=i, is_thing=True) for i in (1, 2, 3))
    annotation = PanopticAnnotation(segment_ids=torch.from_numpy(ids), segments=segments)
    jitter = Jitter(JitterConfig(crop_size=128, min_zoom=0.1, max_zoom=1.0))
    for epoch in range(12):
        plan = jitter.plan("5", (120, 200), 0, epoch)
        image, target = jitter(sample, annotation, 0, epoch)
        size = (plan.size[1], plan.size[0])
        flip = (lambda a: a[:, ::-1]) if plan.flip else (lambda a: a)
        plain = np.full((128, 128, 3), 128, dtype=np.uint8)
        plain[: size[1], : size[0]] = np.asarray(Image.fromarray(flip(pixels).copy()).resize(size, Image.BILINEAR))
        assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - plain).max() <= 1
        plain_ids = np.zeros((128, 128), dtype=np.int32)
        plain_ids[: size[1], : size[0]] = np.asarray(Image.fromarray(flip(ids).copy()).resize(size, Image.NEAREST))
        found = (target.masks.int() * target.category_ids[:, None, None]).sum(0).numpy()
        # Pillow and torch may round a source position that lies on a pixel border apart.
        assert (found != plain_ids).mean() < 0.01


def test_crowds_and_lost_segments_have_no_mask() -> None:
    ids = torch.zeros((40, 40), dtype=torch.int32)
    ids[:20], ids[30:] = 4, 8
    segments = (
        TruthSegment(id=4, category_id=1, is_thing=True),
        TruthSegment(id=8, category_id=2, is_thing=True, is_crowd=True),
        TruthSegment(id=77, category_id=0, is_thing=True),
    )
    sample = ImageSample(image_id="1", image=torch.zeros((3, 40, 40), dtype=torch.uint8), original_size=(40, 40))
    jitter = Jitter(JitterConfig(crop_size=40, min_zoom=1, max_zoom=1))
    _, target = jitter(sample, PanopticAnnotation(segment_ids=ids, segments=segments), 0, 0)
    assert target.category_ids.tolist() == [1]
    assert int(target.masks.sum()) == 20 * 40
    _, empty = jitter(sample, PanopticAnnotation(segment_ids=torch.zeros_like(ids), segments=()), 0, 0)
    assert empty.masks.shape == (0, 40, 40)


def test_many_segments_need_more_than_a_byte() -> None:
    ids = torch.arange(400, dtype=torch.int32).reshape(20, 20) + 1
    segments = tuple(TruthSegment(id=i + 1, category_id=i, is_thing=True) for i in reversed(range(400)))
    sample = ImageSample(image_id="1", image=torch.zeros((3, 20, 20), dtype=torch.uint8), original_size=(20, 20))
    jitter = Jitter(JitterConfig(crop_size=20, min_zoom=1, max_zoom=1, flip_probability=0))
    _, target = jitter(sample, PanopticAnnotation(segment_ids=ids, segments=segments), 0, 0)
    found = (target.masks * target.category_ids[:, None, None]).sum(0)
    assert torch.equal(found + 1, ids.long())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"crop_size": 0}, "crop_size"),
        ({"min_zoom": 0.0}, "zoom"),
        ({"min_zoom": 3.0}, "zoom"),
        ({"flip_probability": 1.5}, "flip_probability"),
        ({"padding_value": 256}, "padding_value"),
    ],
)
def test_config_is_checked(fields: dict[str, float], message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        JitterConfig(**fields)  # type: ignore[arg-type]


def test_annotation_of_another_size_is_refused() -> None:
    sample, _ = scene(30, 40)
    _, annotation = scene(31, 40)
    with pytest.raises(UserInputError, match=r"image '9': .*\(30, 40\), found \(31, 40\)"):
        Jitter()(sample, annotation, 0, 0)


@pytest.mark.parametrize(
    ("size", "limits", "expected"),
    [
        ((480, 640), (800, 1333), (800, 1067)),
        ((427, 640), (800, 1333), (800, 1199)),
        ((300, 1000), (800, 1333), (400, 1333)),
        ((1024, 2048), (1024, 2560), (1024, 2048)),
        ((4000, 3000), (800, 1333), (1067, 800)),
        ((1, 5000), (800, 1333), (1, 1333)),
    ],
)
def test_test_size(size: tuple[int, int], limits: tuple[int, int], expected: tuple[int, int]) -> None:
    assert size_for_test(size, *limits) == expected


def test_test_resize_is_pillows_bilinear_within_one_level() -> None:
    sample, _ = scene(97, 131)
    resized = resize_for_test(sample, 60, 100)
    expected = Image.fromarray(sample.image.permute(1, 2, 0).numpy()).resize((81, 60), Image.BILINEAR)
    assert resized.original_size == (97, 131)
    assert np.abs(resized.image.permute(1, 2, 0).numpy().astype(int) - np.asarray(expected)).max() <= 1
    assert resize_for_test(sample, 97, 131) is sample


def test_batches_pad_to_the_largest_multiple_of_32() -> None:
    first, second = scene(30, 70)[0], scene(64, 33)[0]
    target = PanopticTarget(
        masks=torch.ones((2, 30, 70), dtype=torch.bool),
        category_ids=torch.tensor([1, 2]),
        is_thing=torch.tensor([True, False]),
    )
    none = PanopticTarget(
        masks=torch.zeros((0, 64, 33), dtype=torch.bool),
        category_ids=torch.zeros(0, dtype=torch.int64),
        is_thing=torch.zeros(0, dtype=torch.bool),
    )
    batch = collate([first, second], [target, none])
    assert batch.images.shape == (2, 3, 64, 96)
    assert batch.valid_sizes.tolist() == [[30, 70], [64, 33]]
    assert torch.equal(batch.images[0, :, :30, :70], first.image)
    assert int(batch.images[0, :, 30:].sum()) == int(batch.images[0, :, :, 70:].sum()) == 0
    assert batch.targets[0].masks.shape == (2, 64, 96)
    assert int(batch.targets[0].masks.sum()) == 2 * 30 * 70
    assert batch.targets[1].masks.shape == (0, 64, 96)
    assert collate([first]).targets == ()
    with pytest.raises(UserInputError, match="found none"):
        collate([])
    with pytest.raises(UserInputError, match="found 1 for 2 images"):
        collate([first, second], [target])
    with pytest.raises(UserInputError, match=r"its size \(64, 33\), found \(30, 70\)"):
        collate([second], [target])


@pytest.mark.parametrize("num_segments", [6, 300], ids=["bytes", "whole numbers"])
def test_masks_are_each_segment_cut_out_and_resized_alone(num_segments: int) -> None:
    """Which segments are left is told by the smaller of two maps, so zooming in and out are both looked at."""
    rng = np.random.default_rng(2)
    ids = torch.from_numpy(rng.integers(1, num_segments + 1, (11, 13)).repeat(5, 0).repeat(4, 1).astype(np.int32))
    held = ids.unique().tolist()
    segments = tuple(
        TruthSegment(id=number, category_id=number % 7, is_thing=bool(number % 2), is_crowd=number == held[0])
        for number in held
    )
    image = torch.from_numpy(rng.integers(0, 256, (55, 52, 3), dtype=np.uint8)).permute(2, 0, 1)
    sample = ImageSample(image_id="3", image=image, original_size=(55, 52))
    jitter = Jitter(JitterConfig(crop_size=48, min_zoom=0.1, max_zoom=4.0))
    zoomed_in, lost = set(), 0
    for epoch in range(30):
        plan = jitter.plan("3", (55, 52), 0, epoch)
        _, target = jitter(sample, PanopticAnnotation(segment_ids=ids, segments=segments), 0, epoch)
        window = ids[plan.top : plan.top + plan.height, plan.left : plan.left + plan.width]
        expected = []
        for segment in segments[1:]:
            alone = (window == segment.id).float()[None, None]
            mask = torch.zeros((48, 48), dtype=torch.bool)
            resized = torch.nn.functional.interpolate(alone, size=plan.size, mode="nearest-exact")[0, 0] > 0
            mask[: plan.size[0], : plan.size[1]] = resized.flip(1) if plan.flip else resized
            if mask.any():
                expected.append((mask, segment.category_id, segment.is_thing))
        assert len(target.masks) == len(expected)
        if expected:
            masks, categories, things = zip(*expected, strict=True)
            assert torch.equal(target.masks, torch.stack(masks))
            assert target.category_ids.tolist() == list(categories)
            assert target.is_thing.tolist() == list(things)
        zoomed_in.add(plan.size[0] > plan.height)
        lost += len(segments) - 1 - len(expected)
    assert zoomed_in == {True, False}
    assert lost > 0

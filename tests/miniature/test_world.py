"""Scenes come from their seed alone, to the last bit, and hold what the split promises."""

import hashlib

import numpy as np
import pytest

from frozenseg.errors import UserInputError
from frozenseg.miniature import full_vocabulary, make_scene, training_vocabulary
from frozenseg.miniature.categories import HELD_BACK_LAYOUTS, HELD_BACK_OUTLINES, NOVEL_NAMES
from frozenseg.miniature.dataset import encoded_sample
from frozenseg.miniature.dice import Dice
from frozenseg.miniature.world import MIN_AREA, SCENE_SIZE

# Of 16 scenes before JPEG (libjpeg versions may differ). It may change only with the world itself, and then every
# weight and figure that rests on the world has to be made anew.
WORLD_DIGEST = "e4ae69368466990a23caafad36159fe20c6825e465f87effca90b0047173a9c5"


def test_scenes_are_the_same_to_the_last_bit_everywhere():
    digest = hashlib.sha256()
    for index in range(8):
        for contents in ("base", "all"):
            scene = make_scene(7, index, contents)
            digest.update(scene.image.tobytes())
            digest.update(scene.segment_ids.tobytes())
    assert digest.hexdigest() == WORLD_DIGEST


@pytest.mark.parametrize(("seed", "index", "contents"), [(1, 0, "all"), (0, 1, "all"), (0, 0, "base")])
def test_another_key_makes_another_scene(seed, index, contents):
    assert (make_scene(seed, index, contents).image != make_scene(0, 0, "all").image).any()


def test_dice_draws_every_face_and_stays_in_range():
    dice = Dice(3)
    draws = [dice.integer(2, 6) for _ in range(300)]
    assert set(draws) == {2, 3, 4, 5, 6}
    units = dice.units(1000)
    assert units.dtype == np.float32
    assert units.min() >= 0
    assert 0.45 < units.mean() < 0.55
    assert sorted(dice.sample("abcd", 4)) == list("abcd")


def test_the_vocabulary_is_the_issues():
    full, base = full_vocabulary(), training_vocabulary()
    assert (len(full), len(base)) == (23, 14)
    assert {c.name for c in full.categories} - {c.name for c in base.categories} == NOVEL_NAMES
    assert int(full.is_thing.sum()) == 16
    assert {c.name: c.dataset_id for c in base.categories}.items() <= {
        c.name: c.dataset_id for c in full.categories
    }.items()


def test_base_scenes_show_neither_novel_looks_nor_held_back_outlines():
    segments = [segment for index in range(40) for segment in make_scene(5, index, "base").segments]
    assert len(segments) > 120
    assert all(segment.look_seen and segment.outline_seen for segment in segments)
    assert not {segment.name for segment in segments} & NOVEL_NAMES
    assert not {segment.outline for segment in segments} & {*HELD_BACK_OUTLINES, *HELD_BACK_LAYOUTS}


def test_full_scenes_fill_the_two_by_two():
    segments = [segment for index in range(60) for segment in make_scene(5, index).segments]
    assert {s.name for s in segments} == {c.name for c in full_vocabulary().categories}
    assert {(s.look_seen, s.outline_seen) for s in segments} == {(a, b) for a in (True, False) for b in (True, False)}


def test_truth_agrees_with_its_map():
    for index in range(20):
        scene = make_scene(6, index)
        assert scene.segment_ids.shape == (SCENE_SIZE, SCENE_SIZE)
        assert {s.id for s in scene.segments} == set(np.unique(scene.segment_ids).tolist()) - {0}
        for segment in scene.segments:
            assert segment.area == int((scene.segment_ids == segment.id).sum()) >= MIN_AREA
            assert full_vocabulary().categories[segment.category_id].name == segment.name


def test_the_camera_changes_little():
    scene = make_scene(1, 2)
    difference = np.abs(scene.photograph().astype(int) - scene.image.astype(int)).mean()
    assert 0 < difference < 12


def test_a_scene_outside_the_vocabulary_is_refused_by_name():
    scene = next(s for s in (make_scene(1, i) for i in range(50)) if any(not g.look_seen for g in s.segments))
    missing = next(g.name for g in scene.segments if not g.look_seen)
    with pytest.raises(UserInputError, match=missing):
        encoded_sample(scene, "x", training_vocabulary())

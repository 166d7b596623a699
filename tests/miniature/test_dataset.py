"""The data set on disk is valid COCO panoptic, and the truth survives the way there and back."""

import json

import numpy as np
import pytest
import torch

from frozenseg.cli.make_miniature import MakeMiniature, run
from frozenseg.data import CocoPanoptic, decode_annotation, decode_image
from frozenseg.errors import UserInputError
from frozenseg.miniature import make_scene, write_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("world") / "data", num_train=4, num_val=6, seed=3)


def read(folder, split):
    annotations = folder / "annotations"
    return CocoPanoptic(annotations / f"panoptic_{split}.json", folder / split, annotations / f"panoptic_{split}", None)


def test_both_splits_read_as_coco_panoptic(folder):
    train, val = read(folder, "train"), read(folder, "val")
    assert (len(train), len(val)) == (4, 6)
    assert (len(train.vocabulary), len(val.vocabulary)) == (14, 23)
    assert {train[i].image_id for i in range(4)}.isdisjoint({val[i].image_id for i in range(6)})


def test_truth_comes_back_unchanged(folder):
    val = read(folder, "val")
    for index in range(len(val)):
        scene, sample = make_scene(3, index, "all"), val[index]
        annotation = decode_annotation(sample)
        assert np.array_equal(annotation.segment_ids.numpy(), scene.segment_ids)
        names = {s.id: val.vocabulary.categories[s.category_id].name for s in annotation.segments}
        assert names == {s.id: s.name for s in scene.segments}
        image = decode_image(sample.image_bytes, sample.image_id).image
        assert torch.equal(image, torch.from_numpy(scene.photograph().copy()).permute(2, 0, 1))


def test_segments_say_what_training_saw(folder):
    document = json.loads((folder / "annotations" / "panoptic_train.json").read_text())
    segments = [s for a in document["annotations"] for s in a["segments_info"]]
    assert all(s["look_seen"] and s["outline_seen"] for s in segments)
    assert all(s["area"] > 0 and s["bbox"][2] > 0 for s in segments)


def test_the_same_arguments_write_the_same_bytes(folder, tmp_path):
    again = write_dataset(tmp_path / "again", num_train=4, num_val=6, seed=3)
    files = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    assert len(files) == 2 * (4 + 6) + 2
    assert all((folder / name).read_bytes() == (again / name).read_bytes() for name in files)


@pytest.mark.parametrize(("train", "val", "seed"), [(0, 0, 0), (-1, 3, 0), (1, 1, -2)])
def test_impossible_numbers_are_refused(tmp_path, train, val, seed):
    with pytest.raises(UserInputError, match="scene"):
        write_dataset(tmp_path / "new", train, val, seed)
    assert not (tmp_path / "new").exists()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserInputError, match="not empty"):
        write_dataset(tmp_path, 1, 1)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_the_command_writes_the_same(tmp_path, capsys):
    assert run(MakeMiniature(to=tmp_path / "w", num_train=1, num_val=2, seed=4)) == 0
    assert "1 training and 2 validation" in capsys.readouterr().out
    assert len(read(tmp_path / "w", "val")) == 2

"""The readers whose releases need a preparation step elsewhere: each on a tiny folder in the official layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from frozenseg.cli import main
from frozenseg.data import decode_annotation, decode_image
from frozenseg.data.coco_instances import CocoInstances
from frozenseg.data.dataset import ApProtocol, Frequency
from frozenseg.data.folders import FolderData
from frozenseg.data.layouts import open_dataset
from frozenseg.data.releases import ade_instance_ids
from frozenseg.errors import UserInputError
from frozenseg.vocabulary import load_vocabulary

from .test_layouts import SIZE, labels, picture


def planes(path: Path, *stripes: tuple[int, ...], size: tuple[int, int] = SIZE) -> None:
    """A color PNG of vertical stripes, RGB or RGBA by the length of each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width = -(-size[1] // len(stripes))
    row = np.array(stripes, dtype=np.uint8).repeat(width, 0)[: size[1]]
    Image.fromarray(np.ascontiguousarray(row[None].repeat(size[0], 0))).save(path)


def segments(name: str, root: Path) -> list[tuple[str, bool, int]]:
    """Category, crowd and area of every segment of the one sample, by area."""
    data = open_dataset(name, root)
    (sample,) = list(data)
    decode_annotation(sample, check_areas=True)
    found = [(data.vocabulary.categories[s.category_id].name, s.is_crowd, s.area) for s in sample.segments]
    return sorted(found, key=lambda entry: (entry[2], entry[0]))


def ade(root: Path) -> None:
    """Labels: wall, bed, person, none. Instances: bed 1, bed 2 (over person), no person."""
    picture(root / "images/validation/ADE_val_1.jpg")
    labels(root / "annotations/validation/ADE_val_1.png", 1, 8, 13, 0)
    planes(root / "annotations_instance/validation/ADE_val_1.png", (0, 0, 0), (1, 1, 0), (1, 2, 0), (0, 0, 0))


def test_ade20k_panoptic_and_instances(tmp_path: Path) -> None:
    ade(tmp_path)
    assert segments("ade20k-panoptic", tmp_path) == [("bed", False, 48), ("bed", False, 48), ("wall", False, 48)]
    assert segments("ade20k-instances", tmp_path) == [("bed", False, 48), ("bed", False, 48)]
    data = open_dataset("ade20k-instances", tmp_path)
    assert isinstance(data, FolderData)
    assert [(o.area, o.is_crowd) for o in data.instances(0).objects] == [(48, False), (48, False)]
    assert len(data.vocabulary) == 100
    planes(tmp_path / "annotations_instance/validation/ADE_val_1.png", (1, 1, 0), (2, 1, 0))
    with pytest.raises(UserInputError, match=r"expected instance 1 to be of one known category, found \[1, 2\]"):
        data[0]


def test_the_instance_categories_are_the_things() -> None:
    vocabulary = load_vocabulary("ade20k-150")
    assert sorted(set(ade_instance_ids().values())) == [
        k + 1 for k, category in enumerate(vocabulary.categories) if category.is_thing
    ]
    assert sorted(ade_instance_ids()) == list(range(1, 101))


def test_ade20k_full_is_brought_to_512(tmp_path: Path) -> None:
    folder = tmp_path / "images/ADE/validation/urban/street"
    picture(folder / "ADE_val_00000002.jpg", (600, 900))
    wall, sky = 2978, 2420
    codes = [(code // 256 * 10 + 3, code % 256, 9) for code in (wall, sky, 1)]
    planes(folder / "ADE_val_00000002_seg.png", *codes, size=(600, 900))
    planes(folder / "ADE_val_00000002_parts_1.png", (0, 0, 0), size=(600, 900))
    (sample,) = list(open_dataset("ade20k-full", tmp_path))
    assert sample.image_id == "ADE_val_00000002"
    assert decode_image(sample.image_bytes, sample.image_id).original_size == (512, 768)
    assert segments("ade20k-full", tmp_path) == [("sky", False, 512 * 256), ("wall", False, 512 * 256)]
    small = tmp_path / "small/images/ADE/validation/a/ADE_val_1"
    picture(small.with_suffix(".jpg"))
    planes(small.with_name("ADE_val_1_seg.png"), codes[0])
    (sample,) = list(open_dataset("ade20k-full", tmp_path / "small"))
    assert sample.image_bytes == small.with_suffix(".jpg").read_bytes()


def test_context(tmp_path: Path) -> None:
    for name in ("2008_000002", "2008_000003"):
        picture(tmp_path / f"JPEGImages/{name}.jpg")
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/val.txt").write_text("2008_000002\n2008_000003\n")
    values = np.array([2, 1, 397, 0], dtype=np.uint16).repeat(4)[None].repeat(SIZE[0], 0)
    (tmp_path / "trainval").mkdir()
    savemat(tmp_path / "trainval/2008_000002.mat", {"LabelMap": values})
    official = load_vocabulary("context-459").categories[396].name
    assert segments("context-459", tmp_path) == sorted(
        [("accordion", False, 48), ("aeroplane", False, 48), (official, False, 48)]
    )
    found = [name for name, _, _ in segments("context-59", tmp_path)]
    assert "aeroplane" in found
    assert "accordion" not in found
    savemat(tmp_path / "trainval/2008_000002.mat", {"Other": values})
    with pytest.raises(UserInputError, match="expected a matrix LabelMap of whole numbers"):
        segments("context-59", tmp_path)
    (tmp_path / "trainval/2008_000002.mat").write_bytes(b"nothing")
    with pytest.raises(UserInputError, match="expected a MATLAB file"):
        segments("context-59", tmp_path)


def test_bdd100k_panoptic(tmp_path: Path) -> None:
    picture(tmp_path / "images/10k/val/x.jpg")
    stripes = ((7, 0, 0, 1), (35, 0, 1, 4), (35, 2, 0, 9), (35, 1, 0, 8), (255, 0, 0, 0), (35, 8, 0, 4))
    planes(tmp_path / "labels/pan_seg/bitmasks/val/x.png", *stripes)
    names = {c.dataset_id: c.name for c in load_vocabulary("bdd100k-panoptic").categories}
    assert segments("bdd100k-panoptic", tmp_path) == [
        (names[35], False, 12), (names[35], False, 36), (names[35], True, 36), (names[7], False, 36)
    ]  # fmt: skip


def test_cityscapes_instances(tmp_path: Path) -> None:
    stem = "lindau_000001_000019"
    picture(tmp_path / f"leftImg8bit/val/lindau/{stem}_leftImg8bit.png")
    path = tmp_path / f"gtFine/val/lindau/{stem}_gtFine_instanceIds.png"
    path.parent.mkdir(parents=True)
    # Road, car 1, a group of cars, a caravan and void.
    values = np.array([7, 26001, 26, 29003], dtype=np.uint16).repeat(4)[None].repeat(SIZE[0], 0)
    values[0] = 0
    Image.fromarray(values).save(path)
    assert segments("cityscapes-instances", tmp_path) == [("car", True, 44), ("car", False, 44), ("road", False, 44)]
    data = open_dataset("cityscapes-instances", tmp_path)
    assert isinstance(data, FolderData)
    assert data.protocol is ApProtocol.CITYSCAPES
    truth = data.instances(0)
    assert [(o.is_crowd, o.area) for o in truth.objects] == [(True, 44), (False, 44)]
    assert truth.void is not None
    assert truth.image_id == stem


def square(x: int, y: int, side: int) -> list[list[int]]:
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def instance_json(lvis: bool = False) -> dict[str, object]:
    """A small cup in front of a table, wholly inside it, and a crowd of cups below both."""
    def annotation(number: int, category: int, x: int, y: int, side: int, crowd: int = 0) -> dict[str, object]:
        return {
            "id": number, "image_id": 1, "category_id": category, "segmentation": square(x, y, side),
            "area": side * side, "bbox": [x, y, side, side], "iscrowd": crowd,
        }  # fmt: skip

    extra = {"neg_category_ids": [3], "not_exhaustive_category_ids": [1], "coco_url": "http://x/val2017/1.jpg"}
    categories = [{"id": 1, "name": "tea_cup"}, {"id": 2, "name": "table"}, {"id": 3, "name": "spoon"}]
    if lvis:
        for category, letter in zip(categories, "rcf", strict=True):
            category["frequency"] = letter
    return {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 12, "width": 16, **(extra if lvis else {})}],
        "categories": categories,
        "annotations": [annotation(1, 1, 3, 3, 2), annotation(2, 2, 2, 2, 6), annotation(3, 1, 0, 0, 12, 1)],
    }


def test_own_instances(tmp_path: Path) -> None:
    picture(tmp_path / "val/1.jpg")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_val.json").write_text(json.dumps(instance_json()))
    assert segments("own-instances", tmp_path) == [("tea_cup", False, 4), ("table", False, 32), ("tea_cup", True, 108)]
    data = open_dataset("own-instances", tmp_path)
    assert isinstance(data, CocoInstances)
    assert [one.area for one in data.instances(0).objects] == [4, 36, 144]
    assert main(["check-data", "own-instances", "--root", str(tmp_path)]) == 0
    content = instance_json()
    content["annotations"][0]["segmentation"] = [[1, 2]]  # type: ignore[index]
    content["annotations"][1]["image_id"] = 1  # type: ignore[index]
    (tmp_path / "annotations/instances_val.json").write_text(json.dumps(content))
    with pytest.raises(UserInputError, match="annotation 1 of image '1': expected polygons or run lengths"):
        open_dataset("own-instances", tmp_path)[0]
    content["annotations"][1]["image_id"] = 9  # type: ignore[index]
    (tmp_path / "annotations/instances_val.json").write_text(json.dumps(content))
    with pytest.raises(UserInputError, match=r"annotations\[1\]: expected an image_id of its images, found '9'"):
        open_dataset("own-instances", tmp_path)


def test_lvis(tmp_path: Path) -> None:
    picture(tmp_path / "val2017/1.jpg")
    (tmp_path / "lvis_v1_val.json").write_text(json.dumps(instance_json(lvis=True)))
    data = open_dataset("lvis", tmp_path)
    assert isinstance(data, CocoInstances)
    assert data.frequencies == (Frequency.RARE, Frequency.COMMON, Frequency.FREQUENT)
    assert [c.name for c in data.vocabulary.categories] == ["tea cup", "table", "spoon"]
    truth = data.instances(0)
    assert (truth.absent, truth.incomplete) == ((2,), (0,))
    assert data[0].file_name == "val2017/1.jpg"
    content = instance_json(lvis=True)
    content["categories"][0]["frequency"] = "often"  # type: ignore[index]
    (tmp_path / "lvis_v1_val.json").write_text(json.dumps(content))
    with pytest.raises(UserInputError, match="expected the frequency r, c or f, found 'often'"):
        open_dataset("lvis", tmp_path)

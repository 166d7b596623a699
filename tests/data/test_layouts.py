from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frozenseg.cli import main
from frozenseg.data import decode_annotation, decode_image, encode_id_map
from frozenseg.data.check import check_data
from frozenseg.data.labels import decode_label_map, translate
from frozenseg.data.layouts import expected_paths, open_dataset
from frozenseg.data.releases import LAYOUTS
from frozenseg.errors import MissingPathError, UserInputError

from .coco_layout import CATEGORIES, id_map, png_bytes, write_coco

SIZE = (12, 16)


def picture(path: Path, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 90, dtype=np.uint8)).save(path)


def labels(path: Path, *values: int, palette: bool = False) -> None:
    """Vertical stripes of the values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stripes = np.array(values, dtype=np.uint8).repeat(-(-SIZE[1] // len(values)))[None, : SIZE[1]].repeat(SIZE[0], 0)
    image = Image.fromarray(stripes)
    if palette:
        image.putpalette([level for index in range(256) for level in (index, 255 - index, 7)])
    image.save(path)


def found(name: str, root: Path) -> list[tuple[str, list[str]]]:
    """Image id and category names, in order of the category, of every sample; decodes everything on the way."""
    data = open_dataset(name, root)
    seen = []
    for sample in data:
        annotation = decode_annotation(sample, check_areas=True)
        assert decode_image(sample.image_bytes, sample.image_id).original_size == tuple(annotation.segment_ids.shape)
        names = [data.vocabulary.categories[segment.category_id].name for segment in annotation.segments]
        seen.append((sample.image_id, names))
    return seen


def test_ade20k_semantic(tmp_path: Path) -> None:
    picture(tmp_path / "images/validation/ADE_val_1.jpg")
    labels(tmp_path / "annotations/validation/ADE_val_1.png", 0, 1, 3, 150)
    assert found("ade20k-semantic", tmp_path) == [("ADE_val_1", ["wall", "sky", "flag"])]


def test_cityscapes_semantic_and_panoptic(tmp_path: Path) -> None:
    stem = "lindau_000001_000019"
    picture(tmp_path / f"leftImg8bit/val/lindau/{stem}_leftImg8bit.png")
    labels(tmp_path / f"gtFine/val/lindau/{stem}_gtFine_labelIds.png", 0, 7, 26, 33)
    labels(tmp_path / f"gtFine/val/lindau/{stem}_gtFine_instanceIds.png", 1, 1)
    assert found("cityscapes-semantic", tmp_path) == [(stem, ["road", "car", "bicycle"])]

    folder = tmp_path / "gtFine/cityscapes_panoptic_val"
    folder.mkdir()
    ids = np.full(SIZE, 7)
    ids[4:, 4:] = 26001
    (folder / f"{stem}_gtFine_panoptic.png").write_bytes(encode_id_map(ids))
    segments = [{"id": 7, "category_id": 7, "iscrowd": 0, "area": 0}, {"id": 26001, "category_id": 26, "iscrowd": 0}]
    content = {
        "images": [{"id": stem, "file_name": f"{stem}_gtFine_leftImg8bit.png", "height": 12, "width": 16}],
        "annotations": [{"image_id": stem, "file_name": f"{stem}_gtFine_panoptic.png", "segments_info": segments}],
        "categories": [{"id": 7, "name": "road", "isthing": 0}, {"id": 26, "name": "car", "isthing": 1}],
    }
    (tmp_path / "gtFine/cityscapes_panoptic_val.json").write_text(json.dumps(content))
    assert found("cityscapes-panoptic", tmp_path) == [(stem, ["road", "car"])]


def test_mapillary_semantic(tmp_path: Path) -> None:
    picture(tmp_path / "validation/images/a-B_c.jpg")
    labels(tmp_path / "validation/labels/a-B_c.png", 0, 64, 65, palette=True)
    assert found("mapillary-semantic", tmp_path) == [("a-B_c", ["bird", "ego vehicle"])]


def test_voc_takes_the_images_of_its_list(tmp_path: Path) -> None:
    for name in ("2007_000033", "2007_000042"):
        picture(tmp_path / f"JPEGImages/{name}.jpg")
        labels(tmp_path / f"SegmentationClass/{name}.png", 0, 1, 255, palette=True)
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("2007_000042\n")
    assert found("voc-20", tmp_path) == [("2007_000042", ["aeroplane"])]
    assert found("voc-21", tmp_path) == [("2007_000042", ["background", "aeroplane"])]


def test_bdd100k_semantic(tmp_path: Path) -> None:
    picture(tmp_path / "images/10k/val/x.jpg")
    labels(tmp_path / "labels/sem_seg/masks/val/x.png", 0, 18, 255)
    assert found("bdd100k-semantic", tmp_path) == [("x", ["road", "bicycle"])]


def test_own_semantic(tmp_path: Path) -> None:
    (tmp_path / "categories.txt").write_text("cup\nsaucer\nwater (stuff)\n")
    picture(tmp_path / "images/val/one.png")
    labels(tmp_path / "labels/val/one.png", 2, 0, 255)
    assert found("own-semantic", tmp_path) == [("one", ["cup", "water"])]
    (tmp_path / "labels/val/one.png").unlink()
    with pytest.raises(MissingPathError, match=r"expected a label file for the image one\.png, found none"):
        open_dataset("own-semantic", tmp_path)


def own_panoptic(root: Path) -> None:
    write_coco(root / "made")
    (root / "annotations").mkdir()
    (root / "made/panoptic.json").rename(root / "annotations/panoptic_val.json")
    (root / "made/panoptic").rename(root / "annotations/panoptic_val")
    (root / "made/images").rename(root / "val")


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_every_missing_part_is_named(tmp_path: Path, layout: object) -> None:
    with pytest.raises(MissingPathError) as error:
        open_dataset(layout.name, tmp_path)  # type: ignore[attr-defined]
    for path in expected_paths(layout, tmp_path, layout.splits[0]):  # type: ignore[arg-type,attr-defined]
        assert path in str(error.value)


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match="no data set 'coco'; known: coco-panoptic"):
        open_dataset("coco", tmp_path)
    with pytest.raises(UserInputError, match="expected a split of val, train, found 'test'"):
        open_dataset("coco-panoptic", tmp_path, "test")


def test_check_counts_and_names_defects(tmp_path: Path) -> None:
    own_panoptic(tmp_path)
    report = check_data(open_dataset("own-panoptic", tmp_path))
    assert (report.num_images, report.num_segments, report.problems) == (2, 6, ())
    assert [(c.name, c.segments, c.images, c.pixels) for c in report.categories] == [
        ("button", 2, 2, 70),
        ("flag", 2, 2, 96),
        ("water", 2, 2, 974),
    ]
    assert Image.open(__import__("io").BytesIO(report.sheet)).size == (480, 480)
    (tmp_path / "val/000001.png").write_bytes(b"no image")
    picture(tmp_path / "val/000002.png", (5, 5))
    problems = check_data(open_dataset("own-panoptic", tmp_path)).problems
    assert len(problems) == 2
    assert "image '1' (000001.png)" in problems[0]
    assert "image '2': expected an annotation of its size (5, 5), found (20, 30)" in problems[1]


def test_check_data_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own_panoptic(tmp_path)
    command = ["check-data", "own-panoptic", "--root", str(tmp_path)]
    assert main([*command, "--sheet", str(tmp_path / "sheet.png")]) == 0
    assert "2 images, 6 segments, 3 of 3 categories present" in capsys.readouterr().out
    assert (tmp_path / "sheet.png").stat().st_size > 0
    (tmp_path / "val/000001.png").unlink()
    assert main([*command, "--json"]) == 2
    assert "image '1': no file" in json.loads(capsys.readouterr().out)["problems"][0]
    assert main(["check-data", "own-panoptic"]) == 2
    assert "expected --root" in capsys.readouterr().err
    assert main(["check-data", "list"]) == 0
    assert "ROOT/annotations/panoptic_val2017.json" in capsys.readouterr().out


def test_score_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_coco(tmp_path)
    truth = ["--truth", str(tmp_path / "panoptic.json"), "--truth-dir", str(tmp_path / "panoptic")]
    predicted = ["--predictions", str(tmp_path / "panoptic.json"), "--predictions-dir", str(tmp_path / "panoptic")]
    assert main(["score", "panoptic", *truth, *predicted, "--json", "--seen", "button"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert (scores["all"]["pq"], scores["all"]["num_categories"], scores["seen"]["num_categories"]) == (1.0, 2, 1)
    content = json.loads((tmp_path / "panoptic.json").read_text())
    content["annotations"][0]["segments_info"][0]["category_id"] = 99
    (tmp_path / "wrong.json").write_text(json.dumps(content))
    predicted[1] = str(tmp_path / "wrong.json")
    assert main(["score", "panoptic", *truth, *predicted]) == 2
    assert (
        "prediction of image '1': expected a category_id of the truth's categories, found 99" in capsys.readouterr().err
    )

    labels(tmp_path / "truth/a.png", 0, 1, 255)
    labels(tmp_path / "predicted/a.png", 0, 0, 0)
    folders = ["--truth-dir", str(tmp_path / "truth"), "--predictions-dir", str(tmp_path / "predicted")]
    assert main(["score", "semantic", *folders, "--vocabulary", "cup; saucer", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["miou"] == pytest.approx(0.25)
    (tmp_path / "predicted/a.png").unlink()
    assert main(["score", "semantic", *folders, "--vocabulary", "cup; saucer"]) == 2
    assert "expected a prediction named like the truth a.png" in capsys.readouterr().err


def test_label_maps(tmp_path: Path) -> None:
    deep = np.array([[0, 300, 65535]], dtype=np.uint16)
    assert decode_label_map(png_bytes(deep), "x").tolist() == deep.tolist()
    assert translate(deep.astype(np.int32), {300: 4}).tolist() == [[-1, 4, -1]]
    assert translate(np.array([[-5, 70000]], dtype=np.int32), {70000: 1}).tolist() == [[-1, 1]]
    with pytest.raises(UserInputError, match=r"x: expected one number a pixel .* found mode 'RGB'"):
        decode_label_map(png_bytes(np.zeros((2, 2, 3), dtype=np.uint8)), "x")
    with pytest.raises(UserInputError, match="x: expected a label PNG or TIFF, found 4 bytes"):
        decode_label_map(b"abcd", "x")
    assert len(CATEGORIES) == len(np.unique(id_map())) - 1

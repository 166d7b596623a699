"""Every format opened by a reader that isn't ours; those that need packages of their own are slow."""

from __future__ import annotations

import json
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
import yaml
from numpy.typing import NDArray

from pipelines.labeling.labelled import mirrored
from tests.pipelines.coco_format import check_coco_panoptic
from tests.pipelines.labelled_scenes import NAMES, write_scenes
from tests.pipelines.separate_packages import environment_with
from tests.pipelines.test_outlines import filled

READERS = ("supervision==0.31.2", "datumaro==1.13.12", "label-studio-sdk==2.0.19")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "made"
    write_scenes(folder)
    return folder


def truth(scenes: Path, image: str, category: int) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = np.load(scenes / "truth" / f"{image}.npy") == category + 1
    return mask


def iou(left: NDArray[np.bool_], right: NDArray[np.bool_]) -> float:
    return float((left & right).sum() / (left | right).sum())


def test_coco_panoptic_keeps_to_its_format(scenes: Path, tmp_path: Path) -> None:
    folder = scenes / "labels" / "coco-panoptic"
    assert check_coco_panoptic(folder / "panoptic.json", folder) == []
    # The check can fail.
    content = json.loads((folder / "panoptic.json").read_text())
    content["annotations"][0]["segments_info"][0]["area"] += 1
    content["annotations"][1]["segments_info"].pop()
    (tmp_path / "bad.json").write_text(json.dumps(content))
    assert len(check_coco_panoptic(tmp_path / "bad.json", folder)) == 2


def test_cvat_masks_are_exact(scenes: Path) -> None:
    images = ElementTree.parse(scenes / "labels" / "cvat" / "annotations.xml").getroot().findall("image")
    assert [image.get("name") for image in images] == [f"p{i}.jpg" for i in range(1, 6)]
    num_masks = 0
    for image in images:
        for mask in image.findall("mask"):
            runs = [int(run) for run in mask.attrib["rle"].split(",")]
            left, top, width, height = (int(mask.attrib[key]) for key in ("left", "top", "width", "height"))
            inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
            whole = np.zeros((int(image.attrib["height"]), int(image.attrib["width"])), dtype=bool)
            whole[top : top + height, left : left + width] = inside
            stem = image.attrib["name"].removesuffix(".jpg")
            assert (whole == truth(scenes, stem, NAMES.index(mask.attrib["label"]))).all()
            num_masks += 1
    assert num_masks == 12
    # A part stands alone.
    assert len(ElementTree.parse(scenes / "labels" / "cvat" / "part-000001.xml").getroot().findall("image")) == 2


def test_polygons_keep_holes_and_parts(scenes: Path) -> None:
    configuration = yaml.safe_load((scenes / "labels" / "yolo" / "data.yaml").read_text())
    assert list(configuration["names"].values()) == list(NAMES)
    for image in ("p1", "p2", "p4", "p5"):
        content = json.loads((scenes / "labels" / "labelme" / f"{image}.json").read_text())
        shape = (content["imageHeight"], content["imageWidth"])
        drawn = {category: np.zeros(shape, dtype=bool) for category in range(len(NAMES))}
        for polygon in content["shapes"]:
            drawn[NAMES.index(polygon["label"])] |= filled(np.array(polygon["points"]), shape)
        lines = (scenes / "labels" / "yolo" / "labels" / f"{image}.txt").read_text().splitlines()
        assert len(lines) == 3
        for line in lines:
            category, *values = line.split()
            ring = np.array(values, dtype=float).reshape(-1, 2) * (shape[1], shape[0])
            mask = truth(scenes, image, int(category))
            assert iou(filled(ring, shape), mask) > 0.93
            assert iou(drawn[int(category)], mask) > 0.93
    assert (scenes / "labels" / "yolo" / "labels" / "p3.txt").read_text() == ""


def test_webdataset_reads_the_shards(scenes: Path) -> None:
    samples: list[dict[str, Any]] = []
    for path in sorted((scenes / "labels" / "webdataset").glob("*.tar")):
        with path.open("rb") as stream:  # WebDataset itself leaves closing to the garbage collector
            files = webdataset.tariterators.tar_file_expander([{"url": str(path), "stream": stream}])
            samples += webdataset.tariterators.group_by_keys(files)
    assert [sample["__key__"] for sample in samples] == [f"p{i}" for i in range(1, 6)]
    assert samples[0]["jpg"] == (scenes / "images" / "p1.jpg").read_bytes()
    assert len(json.loads(samples[0]["segments.json"])["segments"]) == 3


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b.c.jpg", "a/b.c.txt"),
        ("../../etc/x.jpg", "etc/x.txt"),
        ("/abs/./x", "abs/x.txt"),
        ("s3://bucket/x.jpg", "s3_/bucket/x.txt"),
        ("a\\..\\..\\x.jpg", "a/x.txt"),
        (".jpg", ".txt"),
    ],
)
def test_label_files_stay_in_their_folder(name: str, expected: str) -> None:
    assert mirrored(name, ".txt") == expected


@pytest.fixture(scope="module")
def reader_python(pytestconfig: pytest.Config) -> Path:
    """Of the last package only a module without imports of its own is needed; its other 60 packages are not."""
    folder = Path(pytestconfig.cache.mkdir("label-readers")) / "environment"
    return environment_with(folder, READERS[:2], ("--no-deps", READERS[2]))


@pytest.mark.slow
def test_others_find_the_same_masks(scenes: Path, reader_python: Path, tmp_path: Path) -> None:
    script = Path(__file__).with_name("reader_script.py")
    command = [str(reader_python), str(script), str(scenes), str(tmp_path), json.dumps(NAMES)]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    # Readers of polygons draw the outline too, which adds up to a pixel at the lower and right edges.
    expected = {"coco-instances": 1.0, "cvat": 1.0, "label-studio": 1.0, "labelme": 0.85, "yolo": 0.85}
    for kind, least in expected.items():
        for image in ("p1", "p2", "p4", "p5"):
            masks = {path.stem: np.load(path) for path in (tmp_path / kind / image).iterdir()}
            categories = sorted(int(stem.split("-")[0]) for stem in masks)
            assert categories == ([0, 2] if kind == "coco-instances" else [0, 1, 2])
            for stem, mask in masks.items():
                assert iou(mask, truth(scenes, image, int(stem.split("-")[0]))) >= least, (kind, image, stem)
        assert not (tmp_path / kind / "p3").exists()

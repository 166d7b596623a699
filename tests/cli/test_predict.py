"""`frozenseg predict`, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from frozenseg.cli import main
from frozenseg.data import decode_id_map

VOCABULARY = "cat; dog,puppy; sky(stuff)"


def predict(*arguments: object) -> int:
    return main(["predict", *map(str, arguments), "--device", "cpu"])


def test_overlays_of_a_folder(
    trained_folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    code = predict(
        photos, "--model", trained_folder, "--vocabulary", VOCABULARY, "--to", tmp_path / "out", "--batch-size", 2
    )
    assert code == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a-2.png", "a.png", "b.png"]
    with Image.open(tmp_path / "out" / "b.png") as picture:
        assert picture.width >= 640  # small pictures are enlarged so that names can be read
        assert picture.height > picture.width * 48 / 80  # the legend lies below
    output = capsys.readouterr()
    assert "3 picture(s)" in output.out
    assert output.err == ""


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_damaged_picture_costs_the_others_nothing(
    trained_folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture, batch_size: int
) -> None:
    folder, to = tmp_path / "pictures", tmp_path / "out"
    folder.mkdir()
    whole = (photos / "a.png").read_bytes()
    for name, content in (("1.png", whole), ("2.png", whole[: len(whole) // 2]), ("3.png", whole)):
        (folder / name).write_bytes(content)
    arguments = ("--model", trained_folder, "--vocabulary", VOCABULARY, "--format", "coco-panoptic", "--to", to)
    assert predict(folder, *arguments, "--batch-size", batch_size) == 2
    entries = json.loads((to / "predictions.json").read_text())["annotations"]
    assert [entry["file_name"] for entry in entries] == ["1.png", "3.png"]
    output = capsys.readouterr()
    assert "2 picture(s)" in output.out
    assert "skipped: image '2'" in output.err
    assert f"1 of 3 picture(s) could not be read: {folder / '2.png'}" in output.err


def test_random_weights_are_said_loudly(
    tiny_folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    to = tmp_path / "out"
    arguments = (photos / "a.png", "--model", tiny_folder, "--vocabulary", VOCABULARY, "--to", to)
    assert predict(*arguments) == 0
    assert capsys.readouterr().err.count("RANDOM WEIGHTS") == 1
    red = (np.asarray(Image.open(to / "a.png"))[4, :, :3] == (190, 20, 20)).all(axis=-1)
    assert red.mean() > 0.9  # the banner
    assert predict(*arguments, "--format", "coco-panoptic") == 0
    assert "RANDOM WEIGHTS" in json.loads((to / "predictions.json").read_text())["info"]["notice"]
    assert predict(*arguments, "--format", "rle") == 0
    assert "RANDOM WEIGHTS" in json.loads((to / "info.json").read_text())["info"]["notice"]


def test_coco_panoptic_files_agree(trained_folder: Path, photos: Path, tmp_path: Path) -> None:
    to = tmp_path / "out"
    code = predict(
        photos / "*.png", "--model", trained_folder, "--vocabulary", "voc-20", "--to", to, "--format", "coco-panoptic"
    )
    assert code == 0
    content = json.loads((to / "predictions.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.png"]
    assert {c["id"] for c in content["categories"]} == set(range(1, 21))
    for annotation in content["annotations"]:
        ids = decode_id_map((to / "predictions" / annotation["file_name"]).read_bytes(), "prediction")
        assert ids.shape == (48, 80)
        assert {int(i) for i in np.unique(ids)} - {0} == {s["id"] for s in annotation["segments_info"]}
        for segment in annotation["segments_info"]:
            assert segment["area"] == int((ids == segment["id"]).sum())


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_rle_of_every_task(trained_folder: Path, photos: Path, tmp_path: Path, task: str) -> None:
    to = tmp_path / "out"
    code = predict(
        photos / "a.png",
        "--model",
        trained_folder,
        "--vocabulary",
        VOCABULARY,
        "--to",
        to,
        "--format",
        "rle",
        "--task",
        task,
    )
    assert code == 0
    results = json.loads((to / "results.json").read_text())
    if task == "semantic":
        assert sum(result["area"] for result in results) == 48 * 80
    for result in results:
        assert int(coco_mask.area(result["segmentation"])) == result["area"]
        assert result["segmentation"]["size"] == [48, 80]


def test_a_high_score_leaves_none_of_these(trained_folder: Path, photos: Path, tmp_path: Path) -> None:
    for task in ("panoptic", "semantic", "instance"):
        to = tmp_path / task
        arguments = ("--model", trained_folder, "--vocabulary", VOCABULARY, "--format", "rle", "--min-score", 1e9)
        assert predict(photos / "a.png", "--to", to, "--task", task, *arguments) == 0
        assert json.loads((to / "results.json").read_text()) == []


def test_without_a_vocabulary_the_model_s_own_is_used(
    trained_folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert predict(photos / "a.png", "--model", trained_folder, "--to", tmp_path / "out") == 0
    assert "no --vocabulary given" in capsys.readouterr().err


def test_large_pictures_are_tiled(trained_folder: Path, photos: Path, tmp_path: Path) -> None:
    for task in ("panoptic", "semantic", "instance"):
        arguments = ("--model", trained_folder, "--vocabulary", VOCABULARY, "--format", "rle", "--task", task)
        assert predict(photos / "a.png", "--to", tmp_path / task, *arguments, "--tile-above", 64) == 0


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["nowhere.jpg"], "nowhere.jpg does not exist"),
        (["{text}"], "expected an image"),
        (["{photos}", "--vocabulary", " ; "], "empty"),
        (["{photos}", "--vocabulary", "cat;;dog,,"], "empty name"),
        (["{photos}", "--vocabulary", "nowhere.txt"], "nowhere.txt does not exist"),
        (["{empty}"], "holds no pictures"),
        (["{photos}", "--model", "nowhere"], "model folder nowhere does not exist"),
        (["{photos}", "--model", "{photos}"], "is not a model folder"),
        (["{photos}", "--model", "{future}"], "format version 2"),
        (["{photos}", "--model", "{misspelt}"], "did you mean 'decoder'"),
        (["{photos}", "--batch-size", "0"], "--batch-size"),
        (["{photos}", "--format", "coco-panoptic", "--task", "semantic"], "needs --task panoptic"),
        (["{photos}", "--device", "gpu"], "expected auto, cpu, cuda or mps"),
    ],
)
def test_what_the_user_can_mend_is_one_line(
    trained_folder: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    arguments: list[str],
    part: str,
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("not a picture")
    config = json.loads((trained_folder / "config.json").read_text())
    for name, change in (("future", {"format_version": 2}), ("misspelt", {"decodr": {}})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({**config, **change}))
    places = {
        "photos": photos, "empty": tmp_path / "empty", "text": tmp_path / "text.png", "future": tmp_path / "future",
        "misspelt": tmp_path / "misspelt",
    }  # fmt: skip
    filled = [argument.format(**places) for argument in arguments]
    model = [] if "--model" in filled else ["--model", str(trained_folder)]
    assert main(["predict", *filled, *model, "--to", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("frozenseg: error: ")
    assert part in error
    assert not (tmp_path / "out").exists()

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from frozenseg.data import CocoPanoptic, decode_annotation, decode_image, encode_id_map
from frozenseg.errors import MissingPathError, UserInputError
from frozenseg.types import Category, EncodedSample, TruthSegment, Vocabulary

from .coco_layout import id_map, write_coco, write_json


def read(root: Path, vocabulary: Vocabulary | None = None) -> CocoPanoptic:
    return CocoPanoptic(root / "panoptic.json", root / "images", root / "panoptic", vocabulary)


def test_samples_carry_files_and_contiguous_ids(tmp_path: Path) -> None:
    write_coco(tmp_path)
    data = read(tmp_path)
    assert len(data) == 2
    assert [c.name for c in data.vocabulary.categories] == ["button", "flag", "water"]
    assert data.vocabulary.is_thing.tolist() == [True, True, False]
    sample = data[1]
    assert (sample.image_id, sample.file_name) == ("2", "000002.png")
    assert sample.image_bytes == (tmp_path / "images" / "000002.png").read_bytes()
    assert [(s.id, s.category_id, s.is_thing, s.is_crowd) for s in sample.segments] == [
        (70000, 2, False, False),
        (5, 0, True, False),
        (300, 1, True, True),
    ]
    annotation = decode_annotation(sample, check_areas=True)
    assert torch.equal(annotation.segment_ids, torch.from_numpy(id_map()).int())
    target = annotation.target()
    assert target.category_ids.tolist() == [2, 0]
    assert target.masks.sum((1, 2)).tolist() == [487, 35]


def test_any_fsspec_address(tmp_path: Path) -> None:
    write_coco(tmp_path)
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path), "/coco-test", recursive=True)
    remote = CocoPanoptic(
        "memory://coco-test/panoptic.json", "memory://coco-test/images", "memory://coco-test/panoptic"
    )
    assert list(remote) == list(read(tmp_path))
    memory.rm("/coco-test/panoptic/000001.png")
    with pytest.raises(MissingPathError, match="panoptic PNG of image '1'"):
        remote[0]


def test_vocabulary_gives_the_contiguous_ids(tmp_path: Path) -> None:
    write_coco(tmp_path)
    names = ("water", "sky", "button", "flag")
    by_name = Vocabulary(categories=tuple(Category(name=name, is_thing=name != "water") for name in names))
    assert [s.category_id for s in read(tmp_path, by_name)[0].segments] == [0, 2, 3]
    by_id = Vocabulary(categories=tuple(Category(name=f"c{i}", dataset_id=i) for i in (9, 7, 30)))
    assert [s.category_id for s in read(tmp_path, by_id)[0].segments] == [2, 1, 0]
    with pytest.raises(UserInputError, match=r"annotation of image '1': .*vocabulary 'custom', found category 30"):
        read(tmp_path, Vocabulary(categories=(Category(name="button"),)))


Break = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c.pop("images"), r"panoptic\.json: expected the key 'images'"),
        (lambda c: c.pop("annotations"), "expected the key 'annotations'"),
        (lambda c: c.pop("categories"), "expected the key 'categories'"),
        (lambda c: c["categories"][1].pop("isthing"), r"categories\[1\]: expected the key 'isthing'"),
        (lambda c: c["categories"].append(c["categories"][0] | {"name": "x"}), "every id once, found 7 twice"),
        (lambda c: c["images"][0].pop("file_name"), "image '1': expected the key 'file_name'"),
        (lambda c: c["images"][1].update(id=1), "images: expected every id once, found '1' twice"),
        (lambda c: c["images"][1].update(id="a.b"), "without dots and slashes, found 'a.b'"),
        (lambda c: c["images"][1].update(id=None), "to be a number or a name, found None"),
        (lambda c: c["images"].append({"id": 8, "file_name": "8.png"}), "image '8': expected an entry in annotations"),
        (lambda c: c["images"].pop(), "annotation of image '2': expected this id in images"),
        (lambda c: c["annotations"][1].update(image_id=1), "image '1': expected one annotation, found a second"),
        (lambda c: c["annotations"][1].pop("segments_info"), "image '2': expected the key 'segments_info'"),
        (lambda c: c["annotations"][1].pop("file_name"), "image '2': expected the key 'file_name'"),
        (lambda c: c["annotations"][0]["segments_info"][0].pop("id"), "image '1': expected the key 'id'"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(category_id=4), "image '1': .*found 4"),
        (
            lambda c: c["annotations"][0]["segments_info"][0].update(category_id="7"),
            "'category_id' to be int, found '7'",
        ),
        (lambda c: c["annotations"][0]["segments_info"][0].update(id=5), "image '1': .*segment id once, found 5 twice"),
    ],
)
def test_a_defect_of_the_json_is_named(tmp_path: Path, damage: Break, message: str) -> None:
    content = write_coco(tmp_path)
    content["categories"] = [dict(c) for c in content["categories"]]
    damage(content)
    write_json(tmp_path, content)
    with pytest.raises(UserInputError, match=message) as error:
        read(tmp_path)
    assert "panoptic.json" in str(error.value)


def test_json_that_is_none(tmp_path: Path) -> None:
    write_coco(tmp_path)
    (tmp_path / "panoptic.json").write_text('{"images": [],\n oops}')
    with pytest.raises(UserInputError, match=r"panoptic\.json: not valid JSON, line 2"):
        read(tmp_path)
    (tmp_path / "panoptic.json").write_text("[]")
    with pytest.raises(UserInputError, match="expected an object with the key 'categories', found list"):
        read(tmp_path)
    (tmp_path / "panoptic.json").unlink()
    with pytest.raises(MissingPathError, match=r"panoptic\.json"):
        read(tmp_path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    write_coco(tmp_path)
    data = read(tmp_path)
    (tmp_path / "images" / "000001.png").unlink()
    with pytest.raises(MissingPathError, match=r"image '1': no file .*000001\.png"):
        data[0]
    (tmp_path / "panoptic" / "000002.png").unlink()
    with pytest.raises(MissingPathError, match=r"panoptic PNG of image '2': no file .*000002\.png"):
        data[1]


def sample(png: bytes, *segments: tuple[int, int]) -> EncodedSample:
    infos = tuple(TruthSegment(id=i, category_id=0, is_thing=True, area=area) for i, area in segments)
    return EncodedSample(image_id="3", image_bytes=b"x", panoptic_png=png, segments=infos, file_name="c.jpg")


PNG = encode_id_map(id_map())


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (sample(PNG, (5, 0), (300, 0)), r"only in the PNG \[70000\], only in the JSON \[\]"),
        (sample(PNG, (5, 0), (300, 0), (70000, 0), (6, 0)), r"only in the PNG \[\], only in the JSON \[6\]"),
        (sample(PNG, (5, 0), (300, 0), (70000, 0), (0, 0)), r"only in the PNG \[\], only in the JSON \[0\]"),
        (sample(PNG, (5, 0), (300, 0), (70000, 0), (-3, 0)), r"only in the PNG \[\], only in the JSON \[-3\]"),
        (sample(PNG, (5, 0), (300, 0), (2**40, 0)), r"only in the PNG \[70000\], only in the JSON \[1099511627776\]"),
        (sample(PNG, (5, 0), (5, 0), (300, 0), (70000, 0)), "found one of them twice"),
        (sample(PNG, (5, 36), (300, 0), (70000, 0)), "segment 5: expected area 36, found 35 pixels"),
        (sample(PNG[:90], (5, 0)), "that don't decode"),
        (sample(b"GIF89a", (5, 0)), "found 6 bytes that don't decode"),
        (sample(b"", (5, 0)), "for its 1 segments, found none"),
    ],
)
def test_png_and_json_must_agree(broken: EncodedSample, message: str) -> None:
    with pytest.raises(UserInputError, match=message) as error:
        decode_annotation(broken, check_areas=True)
    assert "image '3' (c.jpg)" in str(error.value)


def test_png_in_gray_is_refused() -> None:
    import numpy as np

    from .coco_layout import png_bytes

    with pytest.raises(UserInputError, match="expected an RGB panoptic PNG, found mode 'L'"):
        decode_annotation(sample(png_bytes(np.zeros((3, 3), dtype=np.uint8))))


def test_sample_without_truth_is_empty() -> None:
    annotation = decode_annotation(sample(b""))
    assert annotation.segments == ()
    assert annotation.target().masks.shape[0] == 0


@pytest.mark.shared
def test_real_coco_images(shared_dir: Path) -> None:
    root = shared_dir / "samples" / "coco_panoptic"
    data = CocoPanoptic(root / "panoptic.json", root / "images", root / "panoptic")
    assert len(data.vocabulary) == 133
    assert [len(s.segments) for s in data] == [18, 32]
    for entry, one in zip(data.entries, data, strict=True):
        annotation = decode_annotation(one, check_areas=True)
        image = decode_image(one.image_bytes, one.image_id)
        assert image.original_size == entry.size == tuple(annotation.segment_ids.shape)

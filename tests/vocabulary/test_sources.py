"""Vocabularies from files and published names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from frozenseg.errors import MissingPathError, UserInputError
from frozenseg.vocabulary import PUBLISHED_NAMES, load_vocabulary, published_vocabulary

SIZES = {
    "coco-panoptic": (133, 80), "ade20k-150": (150, 100), "ade20k-847": (847, None), "cityscapes": (19, 8),
    "mapillary": (65, 37), "bdd100k-panoptic": (40, 10), "bdd100k-semantic": (19, 8), "voc-20": (20, 20),
    "voc-21": (21, 20), "context-59": (59, None), "context-459": (459, None),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED_NAMES)
def test_published_lists_have_their_size_and_kinds(name: str) -> None:
    vocabulary = load_vocabulary(name)
    categories, things = SIZES[name]
    assert len(vocabulary) == categories
    assert vocabulary.name == name
    if things is not None:
        assert int(vocabulary.is_thing.sum()) == things
    ids = [c.dataset_id for c in vocabulary.categories]
    assert None not in ids
    assert len(set(ids)) == categories


def test_official_names_are_kept_beside_the_plain_ones() -> None:
    by_id = {c.dataset_id: c for c in published_vocabulary("coco-panoptic").categories}
    assert by_id[199].names == ("wall", "wall-other-merged")
    assert not by_id[199].is_thing
    assert by_id[1].color == (220, 20, 60)
    coco = published_vocabulary("coco-panoptic")
    assert int(published_vocabulary("cityscapes").seen_mask(coco).sum()) >= 10


def test_numbered_lines_drop_the_gaps(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("0:invalid_class_id\n1:cat,kitten\n3:sky(stuff),\n7:cat,tomcat\n")
    vocabulary = load_vocabulary(str(path))
    assert [(c.dataset_id, c.names, c.is_thing) for c in vocabulary.categories] == [
        (1, ("cat", "kitten"), True),
        (3, ("sky",), False),
        (7, ("tomcat", "cat"), True),
    ]


def test_plain_lines_json_and_toml(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("cat\ndog,puppy\nsky(stuff)\n")
    (tmp_path / "b.json").write_text(json.dumps({"categories": ["cat", "dog,puppy", {"name": "sky", "stuff": True}]}))
    (tmp_path / "c.toml").write_text(
        'categories = [{name = "cat"}, {name = "dog", synonyms = ["puppy"]}, {name = "sky", stuff = true}]\n'
    )
    (tmp_path / "d.json").write_text(json.dumps(["cat", "dog,puppy", "sky(stuff)"]))
    hashes = {load_vocabulary(tmp_path / name).content_hash for name in ("a.txt", "b.json", "c.toml", "d.json")}
    assert len(hashes) == 1


def test_a_coco_annotation_file_is_a_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "panoptic.json"
    categories = [
        {"id": 5, "name": "cat", "isthing": 1, "supercategory": "animal"},
        {"id": 9, "name": "sky", "isthing": 0},
    ]
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    vocabulary = load_vocabulary(path)
    assert [(c.dataset_id, c.name, c.is_thing) for c in vocabulary.categories] == [(5, "cat", True), (9, "sky", False)]


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("a.json", "{", "not JSON"),
        ("a.toml", "x = ", "not TOML"),
        ("a.json", '{"categories": [{"name": "a", "sinonyms": []}]}', "did you mean 'synonyms'"),
        ("a.json", '{"categories": []}', "empty"),
        ("a.json", "3", "expected a table"),
        ("a.txt", "\n# only a comment\n", "is empty"),
        ("a.txt", "1:cat\ndog\n", "line 2"),
        ("a.txt", b"\xff\xfe\x00c", "UTF-8"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, name: str, content: str | bytes, part: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserInputError, match=part):
        load_vocabulary(path)


def test_missing_files_and_names() -> None:
    with pytest.raises(MissingPathError, match=r"nowhere\.txt"):
        load_vocabulary("nowhere.txt")
    with pytest.raises(UserInputError, match="did you mean 'cityscapes'"):
        published_vocabulary("cityscape")


@pytest.mark.shared
def test_all_published_files_with_synonyms_are_read(shared_dir: Path) -> None:
    lists = sorted((shared_dir / "vocabularies").glob("*_with_prompt_eng.txt"))
    sizes = {path.name.removesuffix("_with_prompt_eng.txt"): len(load_vocabulary(path)) for path in lists}
    assert sizes["coco_panoptic"] == 133
    assert sizes["ade20k_847"] == 847
    assert sizes["lvis_1203"] == 1203
    assert sizes["cityscapes"] == 19
    assert sizes["pascal_voc_21"] == 21

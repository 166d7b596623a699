"""Tars and Parquet files of others as input, here and at other addresses."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from frozenseg.errors import MissingPathError, UserInputError
from pipelines.corpus import find_corpus, read_image_bytes


def picture(seed: int, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


PICTURES = [picture(seed) for seed in range(5)]


def contents(address: str, column: str = "") -> list[bytes]:
    return [read_image_bytes(reference) for reference in find_corpus(address, column)]


def test_tars_that_webdataset_wrote(tmp_path: Path) -> None:
    for number, chosen in enumerate([PICTURES[:3], PICTURES[3:]]):
        with webdataset.TarWriter(str(tmp_path / f"set-{number}.tar")) as writer:
            for i, data in enumerate(chosen):
                mask = picture(99, "PNG")
                writer.write({"__key__": f"{number}/x{i}", "jpg": data, "json": {"a": 1}, "mask.png": mask})
    assert contents(str(tmp_path)) == PICTURES
    assert contents(f"{tmp_path}/*.tar") == PICTURES
    references = find_corpus(str(tmp_path / "set-1.tar"))
    assert [r.file_name for r in references] == ["set-1.tar/1/x0.jpg", "set-1.tar/1/x1.jpg"]
    assert len({r.image_id for r in find_corpus(str(tmp_path))}) == 5


def test_images_of_a_tar_that_share_a_name(tmp_path: Path) -> None:
    names = ["x.mask.png", "x.jpg", "x.png", "photo.2020.jpg", "photo.2021.jpg", "d/x.jpg"]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(PICTURES[0])
            tar.addfile(member, io.BytesIO(PICTURES[0]))
    found = [reference.file_name.removeprefix("a.tar/") for reference in find_corpus(str(tmp_path / "a.tar"))]
    assert found == ["x.jpg", "photo.2020.jpg", "photo.2021.jpg", "d/x.jpg"]


def test_tars_with_long_names_links_and_folders(tmp_path: Path) -> None:
    long_name = "deep/" * 40 + "ü.jpg"
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        folder = tarfile.TarInfo("folder.jpg")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        member = tarfile.TarInfo(long_name)
        member.size = len(PICTURES[0])
        tar.addfile(member, io.BytesIO(PICTURES[0]))
    [reference] = find_corpus(str(tmp_path / "a.tar"))
    assert reference.file_name == f"a.tar/{long_name}"
    assert read_image_bytes(reference) == PICTURES[0]


@pytest.mark.parametrize("kind", ["binary", "large_binary", "hugging face"])
def test_parquet_with_image_bytes(tmp_path: Path, kind: str) -> None:
    types = {
        "binary": pa.binary(),
        "large_binary": pa.large_binary(),
        "hugging face": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
    }
    values = [{"bytes": data, "path": None} for data in PICTURES] if kind == "hugging face" else PICTURES
    table = pa.table({"label": pa.array(range(5)), "image": pa.array(values, types[kind])})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    assert contents(str(tmp_path)) == PICTURES
    assert [r.place for r in find_corpus(str(tmp_path))] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]


def test_parquet_with_paths_and_a_named_column(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for number, data in enumerate(PICTURES):
        (tmp_path / "pictures" / f"{number}.jpg").write_bytes(data)
    table = pa.table({"where": [f"pictures/{i}.jpg" for i in range(4)] + [str(tmp_path / "pictures" / "4.jpg")]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert contents(str(tmp_path / "a.parquet"), "where") == PICTURES
    with pytest.raises(UserInputError, match=r"expected a column image, .*found where"):
        find_corpus(str(tmp_path / "a.parquet"))
    with pytest.raises(UserInputError, match="expected the column 'there'"):
        find_corpus(str(tmp_path / "a.parquet"), "there")


def test_other_addresses(tmp_path: Path) -> None:
    filesystem = fsspec.filesystem("memory")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number, data in enumerate(PICTURES):
            member = tarfile.TarInfo(f"{number}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    filesystem.pipe("/corpus/a.tar", buffer.getvalue())
    sink = io.BytesIO()
    pq.write_table(pa.table({"image": PICTURES}), sink)
    filesystem.pipe("/corpus/a.parquet", sink.getvalue())
    sink = io.BytesIO()
    pq.write_table(pa.table({"path": ["memory://corpus/pictures/0.jpg"]}), sink)
    filesystem.pipe("/corpus/paths.parquet", sink.getvalue())
    filesystem.pipe("/corpus/pictures/0.jpg", PICTURES[0])
    try:
        assert contents("memory://corpus/a.tar") == PICTURES
        assert contents("memory://corpus/a.parquet") == PICTURES
        assert contents("memory://corpus/paths.parquet") == PICTURES[:1]
        assert contents("memory://corpus/pictures") == PICTURES[:1]
        assert contents("memory://corpus/**/*.jpg") == PICTURES[:1]
        with pytest.raises(MissingPathError):
            find_corpus("memory://corpus/b.tar")
    finally:
        filesystem.rm("/corpus", recursive=True)


def test_files_that_are_not_what_they_are_called(tmp_path: Path) -> None:
    for name in ("bad.tar", "bad.parquet"):
        (tmp_path / name).write_bytes(b"none of these" * 100)
        with pytest.raises(UserInputError, match=f"{name}: expected a"):
            find_corpus(str(tmp_path / name))
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as tar:
        tar.add(tmp_path / "bad.tar", "x.jpg")
    with pytest.raises(UserInputError, match="plain, uncompressed tar"):
        find_corpus(str(tmp_path / "packed.tar"))
    pq.write_table(pa.table({"image": [1, 2]}), tmp_path / "numbers.parquet")
    with pytest.raises(UserInputError, match="expected image bytes or paths, found int64"):
        find_corpus(str(tmp_path / "numbers.parquet"))


def test_a_tar_cut_off_after_it_was_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with webdataset.TarWriter(str(path)) as writer:
        writer.write({"__key__": "a", "jpg": PICTURES[0]})
    [reference] = find_corpus(str(path))
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(UserInputError, match=r"expected \d+ bytes"):
        read_image_bytes(reference)


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    name = b"caf\xe9.jpg"
    with open(bytes(tmp_path) + b"/" + name, "wb") as file:
        file.write(PICTURES[0])
    [reference] = find_corpus(str(tmp_path))
    assert reference.file_name == "caf\\udce9.jpg"
    assert read_image_bytes(reference) == PICTURES[0]

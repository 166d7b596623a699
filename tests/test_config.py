"""Configs: what is read, what is refused, and that writing and reading are inverse."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from frozenseg.config import from_mapping, load_json, load_toml, to_json_dict, to_toml
from frozenseg.errors import MissingPathError, UserInputError


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[int, float] = (1, 2.0)


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    mode: Literal["fast", "exact"] = "fast"
    limit: int | None = None
    folder: Path = Path("x")
    labels: dict[str, int] = field(default_factory=dict)
    parts: tuple[Inner, ...] = ()
    either: str | Inner = "text"
    flag: bool = False


FULL = """
name = "n"
mode = "exact"
limit = 3
folder = "a/b"
flag = true
[inner]
rate = 2
sizes = [4]
[labels]
"two words" = 1
[[parts]]
rate = 1.5
[either]
rate = 0.25
"""


def test_every_kind_of_field_is_read_and_written_back(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(FULL)
    config = load_toml(path, Outer)
    expected = Outer(
        name="n", inner=Inner(rate=2.0, sizes=(4,)), mode="exact", limit=3, folder=Path("a/b"), flag=True,
        labels={"two words": 1}, parts=(Inner(rate=1.5),), either=Inner(rate=0.25),
    )  # fmt: skip
    assert config == expected
    assert isinstance(config.inner.rate, float)
    path.write_text(to_toml(config))
    assert load_toml(path, Outer) == expected
    assert from_mapping(to_json_dict(config), Outer, where="x") == expected


@pytest.mark.parametrize(
    ("mapping", "parts"),
    [
        ({"name": "n", "inner": {"ratte": 1}}, ["'inner.ratte'", "did you mean 'rate'"]),
        ({"name": "n", "zzz": 1}, ["'zzz'", "known keys: name, inner"]),
        ({}, ["'name'", "missing"]),
        ({"name": 3}, ["name", "expected a text", "found 3 (int)"]),
        ({"name": "n", "limit": 1.5}, ["limit", "a whole number", "1.5"]),
        ({"name": "n", "limit": True}, ["limit", "a whole number", "True"]),
        ({"name": "n", "flag": 1}, ["flag", "true or false"]),
        ({"name": "n", "mode": "exakt"}, ["mode", "'fast', 'exact'", "did you mean 'exact'"]),
        ({"name": "n", "inner": {"pair": [1]}}, ["inner.pair", "expected 2 values, found 1"]),
        ({"name": "n", "inner": {"sizes": [1, "b"]}}, ["inner.sizes[1]", "'b'"]),
        ({"name": "n", "inner": 4}, ["inner", "expected a table"]),
        ({"name": "n", "either": {"rat": 1}}, ["either.rat", "did you mean 'rate'"]),
        ({"name": "n", "labels": {"a": "b"}}, ["labels.a", "a whole number"]),
    ],
)
def test_what_is_wrong_is_named(mapping: dict[str, object], parts: list[str]) -> None:
    with pytest.raises(UserInputError) as caught:
        from_mapping(mapping, Outer, where="run.toml")
    message = str(caught.value)
    assert message.startswith("run.toml: ")
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_files_that_are_missing_or_broken(tmp_path: Path) -> None:
    with pytest.raises(MissingPathError, match=r"nowhere\.toml"):
        load_toml(tmp_path / "nowhere.toml", Outer)
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ")
    with pytest.raises(UserInputError, match=r"broken\.toml is not TOML"):
        load_toml(broken, Outer)
    array = tmp_path / "array.json"
    array.write_text("[1]")
    with pytest.raises(UserInputError, match="expected a JSON object"):
        load_json(array, Outer)


def test_texts_survive_toml(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    config = Outer(name='quo"te \\ back\nline é 猫 \x7f')
    path.write_text(to_toml(config), encoding="utf-8")
    assert load_toml(path, Outer) == config

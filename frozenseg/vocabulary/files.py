"""Vocabulary files: `id:name,synonym` lines, plain lines, JSON and TOML. Formats: docs/vocabularies.md."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frozenseg.config import from_mapping
from frozenseg.errors import MissingPathError, UserInputError
from frozenseg.types import Category, Vocabulary
from frozenseg.vocabulary.text import parse_category, parse_vocabulary

GAP = "invalid_class_id"
"""The published lists fill gaps in the ids with this name; such lines are dropped."""

_NUMBERED = re.compile(r"^\s*(\d+)\s*:(.*)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One category of a JSON or TOML file, key by key."""

    name: str
    synonyms: tuple[str, ...] = ()
    stuff: bool = False
    id: int | None = None
    color: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    name: str | None = None
    categories: tuple[str | _Entry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _CocoCategory:
    """A category of a COCO annotation file; keys that say nothing about the vocabulary are named to be known."""

    id: int
    name: str
    isthing: int = 1
    color: tuple[int, int, int] | None = None
    supercategory: str = ""


def read_vocabulary_file(path: str | Path) -> Vocabulary:
    """Reads a vocabulary by the file's ending: .json, .toml, otherwise text lines.

    Raises:
        MissingPathError: no such file.
        UserInputError: the content is not a vocabulary; names the file and the line or key.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingPathError(f"vocabulary file {path} does not exist")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserInputError(f"vocabulary file {path}: expected UTF-8 text, found other bytes: {error}") from error
    try:
        if path.suffix.lower() == ".json":
            import json

            return _from_data(json.loads(text), path)
        if path.suffix.lower() == ".toml":
            return _from_data(tomllib.loads(text), path)
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserInputError):
            raise
        raise UserInputError(f"vocabulary file {path} is not {path.suffix[1:].upper()}: {error}") from error
    return _from_lines(text, path)


def _from_lines(text: str, path: Path) -> Vocabulary:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not any(_NUMBERED.match(line) for line in lines):
        if not lines:
            raise UserInputError(f"vocabulary file {path} is empty: expected lines such as '1:cat,kitten'")
        return parse_vocabulary("\n".join(lines), name=path.stem)
    categories = []
    for number, line in enumerate(lines, start=1):
        found = _NUMBERED.match(line)
        if not found:
            raise UserInputError(f"vocabulary file {path}, line {number}: expected 'id:name,synonym', found {line!r}")
        if found.group(2).strip() != GAP:
            names = found.group(2).strip().rstrip(",")
            categories.append(parse_category(names, dataset_id=int(found.group(1))))
    return Vocabulary(categories=_distinct(categories), name=path.stem)


def _distinct(categories: list[Category]) -> tuple[Category, ...]:
    """Published lists repeat a first name now and then ("pot" and "pot,flowerpot"): such a category is called by its
    first free synonym, and all its names stay. A category with one name only keeps it."""
    taken = {category.name for category in categories if not category.synonyms}
    result = []
    for category in categories:
        free = [name for name in category.names if name not in taken]
        if category.synonyms and free and free[0] != category.name:
            others = tuple(name for name in category.names if name != free[0])
            category = Category(
                name=free[0], synonyms=others, is_thing=category.is_thing, dataset_id=category.dataset_id
            )
        taken.add(category.name)
        result.append(category)
    return tuple(result)


def _from_data(data: Any, path: Path) -> Vocabulary:
    where = f"vocabulary file {path}"
    if isinstance(data, dict) and "images" in data and "annotations" in data:
        data = data.get("categories")  # a COCO annotation file is a vocabulary as it is
    if isinstance(data, list) and data and all(isinstance(item, dict) and "isthing" in item for item in data):
        coco = [from_mapping(item, _CocoCategory, where=f"{where}: categories[{i}]") for i, item in enumerate(data)]
        categories = tuple(
            Category(name=c.name, is_thing=bool(c.isthing), dataset_id=c.id, color=c.color) for c in coco
        )
        return Vocabulary(categories=categories, name=path.stem)
    parsed = from_mapping({"categories": data} if isinstance(data, list) else data, _File, where=where)
    return Vocabulary(categories=tuple(_category(item) for item in parsed.categories), name=parsed.name or path.stem)


def _category(item: str | _Entry) -> Category:
    if isinstance(item, str):
        return parse_category(item)
    return Category(
        name=item.name, synonyms=item.synonyms, is_thing=not item.stuff, dataset_id=item.id, color=item.color
    )

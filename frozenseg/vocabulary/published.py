"""The category lists of public data sets, by name, from the tables beside this file (format: docs/vocabularies.md)."""

from __future__ import annotations

from functools import cache
from importlib import resources

from frozenseg.config import suggestion
from frozenseg.errors import UserInputError
from frozenseg.types import Category, Vocabulary

PUBLISHED_NAMES = (
    "coco-panoptic",
    "ade20k-150",
    "ade20k-847",
    "cityscapes",
    "mapillary",
    "bdd100k-panoptic",
    "bdd100k-semantic",
    "voc-20",
    "voc-21",
    "context-59",
    "context-459",
)


@cache
def published_vocabulary(name: str) -> Vocabulary:
    """The vocabulary of a data set, in the order of its training ids; `dataset_id` is what its annotations use.

    Raises:
        UserInputError: no such list; names the nearest.
    """
    if name not in PUBLISHED_NAMES:
        hint = suggestion(name, PUBLISHED_NAMES) or f"; known: {', '.join(PUBLISHED_NAMES)}"
        raise UserInputError(f"no published vocabulary {name!r}{hint}")
    table = resources.files("frozenseg.vocabulary").joinpath("tables", f"{name}.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in table.splitlines() if line and not line.startswith("#")]
    return Vocabulary(categories=tuple(_category(row) for row in rows[1:]), name=name)


def _category(row: list[str]) -> Category:
    dataset_id, kind, color, name, synonyms = row
    red, green, blue = (int(part) for part in color.split(",")) if color else (0, 0, 0)
    return Category(
        name=name,
        synonyms=tuple(synonyms.split("|")) if synonyms else (),
        is_thing=kind != "stuff",
        dataset_id=int(dataset_id),
        color=(red, green, blue) if color else None,
    )

"""Vocabulary texts: `cat; dog,puppy; sky(stuff)`.

`;` or a line break separates categories, `,` synonyms; `(stuff)` or `(thing)` after any name of a category says what it
is, things by default. A `#` begins a comment in a multi-line text.
"""

from __future__ import annotations

import re

from frozenseg.errors import UserInputError
from frozenseg.types import Category, Vocabulary

_KIND = re.compile(r"\(\s*(stuff|thing)\s*\)\s*$", re.IGNORECASE)


def parse_vocabulary(text: str, name: str = "custom") -> Vocabulary:
    """Reads the text form. Spaces around names don't count; a synonym that repeats a name of its category is dropped.

    Raises:
        UserInputError: no category, an empty name between separators, or one first name twice.
    """
    lines = text.splitlines()
    if len(lines) > 1:
        text = ";".join(line.split("#", 1)[0] for line in lines)
    pieces = [piece.strip() for piece in text.split(";")]
    categories = [parse_category(piece) for piece in pieces if piece]
    if not categories:
        raise UserInputError(
            f"the vocabulary {text.strip()!r} is empty: expected names such as 'cat; dog,puppy; sky(stuff)'"
        )
    return Vocabulary(categories=tuple(categories), name=name)


def parse_category(text: str, dataset_id: int | None = None) -> Category:
    """One category: `name, synonym, ... (stuff)`.

    Raises:
        UserInputError: an empty name, or both (stuff) and (thing).
    """
    names: list[str] = []
    kinds: set[str] = set()
    for raw in text.split(","):
        found = _KIND.search(raw)
        if found:
            kinds.add(found.group(1).lower())
            raw = raw[: found.start()]
        name = " ".join(raw.split())
        if not name:
            raise UserInputError(f"the vocabulary entry {text!r} has an empty name: expected 'name' or 'name,synonym'")
        if name not in names:
            names.append(name)
    if len(kinds) > 1:
        raise UserInputError(f"the vocabulary entry {text!r} says both (stuff) and (thing): expected one of them")
    return Category(name=names[0], synonyms=tuple(names[1:]), is_thing=kinds != {"stuff"}, dataset_id=dataset_id)


def format_vocabulary(vocabulary: Vocabulary) -> str:
    """The text form; reading it back gives the same names, order and kinds."""
    return "; ".join(",".join(c.names) + ("" if c.is_thing else "(stuff)") for c in vocabulary.categories)

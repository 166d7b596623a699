"""Vocabularies: the text form, files and the published lists."""

from __future__ import annotations

from pathlib import Path

from frozenseg.config import suggestion
from frozenseg.errors import MissingPathError
from frozenseg.types import Vocabulary
from frozenseg.vocabulary.files import read_vocabulary_file
from frozenseg.vocabulary.published import PUBLISHED_NAMES, published_vocabulary
from frozenseg.vocabulary.text import format_vocabulary, parse_vocabulary

__all__ = [
    "PUBLISHED_NAMES",
    "format_vocabulary",
    "load_vocabulary",
    "parse_vocabulary",
    "published_vocabulary",
    "read_vocabulary_file",
]

_FILE_ENDINGS = (".txt", ".json", ".toml", ".tsv", ".csv")


def load_vocabulary(source: str | Path | Vocabulary) -> Vocabulary:
    """A vocabulary from a published name, a file, or the text itself; a Vocabulary is handed back.

    Raises:
        MissingPathError: `source` looks like a file and none is there.
        UserInputError: an empty or malformed vocabulary.
    """
    if isinstance(source, Vocabulary):
        return source
    if isinstance(source, Path):
        return read_vocabulary_file(source)
    text = source.strip()
    if text in PUBLISHED_NAMES:
        return published_vocabulary(text)
    single = "\n" not in text and ";" not in text and 0 < len(text) < 1000
    if single and Path(text).is_file():
        return read_vocabulary_file(text)
    if single and text.lower().endswith(_FILE_ENDINGS):
        raise MissingPathError(f"vocabulary file {text} does not exist{suggestion(text, PUBLISHED_NAMES)}")
    return parse_vocabulary(text)

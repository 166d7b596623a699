"""One row of a table of the paper as a config: which data set, asked by which names, with or without SAM's masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frozenseg.config import load_toml
from frozenseg.data.files import join


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRow:
    """Fields: name: of the row; dataset: by its name; split: by default the validation split;
    vocabulary: a published name, a file, or a file's name below the folder of vocabularies; empty: the data set's own
    names; openseg: SAM's masks vote for unseen categories."""

    name: str
    dataset: str
    split: str = ""
    vocabulary: str = ""
    openseg: bool = False


def row_arguments(config: Path, vocabularies: str) -> dict[str, Any]:
    """What the row says, as arguments of the evaluation job.

    Args:
        vocabularies: folder of the vocabulary files, or empty.

    Raises:
        UserInputError: no such file, or a key that no row has.
    """
    row = load_toml(config, EvaluationRow)
    vocabulary = join(vocabularies, row.vocabulary) if vocabularies and row.vocabulary else row.vocabulary
    return {"dataset": row.dataset, "split": row.split, "vocabulary": vocabulary, "openseg": row.openseg}

"""Scoring semantic predictions: folders of label PNGs whose values are category ids."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from frozenseg.data.files import join, list_files, read_bytes
from frozenseg.data.labels import decode_label_map, translate
from frozenseg.errors import UserInputError
from frozenseg.evaluation.semantic_iou import SemanticIoU
from frozenseg.types import Vocabulary

LABEL_SUFFIXES = (".png", ".tif", ".tiff")


def score_semantic_files(
    truth_dir: str | Path,
    predictions_dir: str | Path,
    vocabulary: Vocabulary,
    values: Mapping[int, int],
    seen: Any = None,
) -> SemanticIoU:
    """Semantic scores of every label file below `truth_dir`; its prediction has the same name, ending aside.

    Args:
        values: contiguous id of each label value, in truth and prediction alike; other values are ignored in the truth
            and wrong in the prediction.

    Raises:
        UserInputError: no truth, or a prediction is missing, damaged or of another size; names the file.
    """
    truth_files = list_files(truth_dir, LABEL_SUFFIXES, recursive=True)
    if not truth_files:
        raise UserInputError(f"{truth_dir}: expected label files ({', '.join(LABEL_SUFFIXES)}), found none")
    predicted_files = {_stem(name): name for name in list_files(predictions_dir, LABEL_SUFFIXES, recursive=True)}
    metric = SemanticIoU(vocabulary, seen)
    for name in truth_files:
        if _stem(name) not in predicted_files:
            raise UserInputError(f"{predictions_dir}: expected a prediction named like the truth {name}, found none")
        truth_file, predicted_file = join(truth_dir, name), join(predictions_dir, predicted_files[_stem(name)])
        truth = translate(decode_label_map(read_bytes(truth_file, "truth"), truth_file), values)
        predicted = translate(decode_label_map(read_bytes(predicted_file, "prediction"), predicted_file), values)
        metric.update(predicted, truth, _stem(name))
    return metric


def _stem(name: str) -> str:
    return posixpath.splitext(name)[0]

"""c_logits*: class logits of embeddings against text rows, with synonyms and a void row."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import torch

from frozenseg.classify import class_logits
from frozenseg.types import TextEmbeddings
from tests.parity.golden import load_module
from tests.parity.result import CaseResult

TOLERANCE = 1e-6


def _numbers(pattern: str, text: str) -> list[int]:
    found = re.search(pattern, text)
    assert found is not None, f"the case's recipe has no {pattern!r}: {text!r}"
    return [int(group) for group in found.groups()]


def check(path: Path) -> list[CaseResult]:
    """The inputs' shapes stand in the recipe `how`, the scales in the arrays' names `logits@<log scale>`."""
    golden = load_module(path.parent, "compare").Golden(path)
    inputs = load_module(path.parent, "inputs")
    how = golden.meta["how"]
    generator = inputs.gen(golden.meta["seed"])
    batch, queries, dim = _numbers(r"standard_normal\(\((\d+), *(\d+), *(\d+)\)\)", how)
    embeddings = torch.from_numpy(generator.standard_normal((batch, queries, dim)).astype(np.float32))
    counts = inputs.synonyms(generator, *_numbers(r"synonyms\(g, *(\d+), *(\d+)\)", how))
    rows = torch.from_numpy(inputs.unit_rows(generator, sum(counts) + 1, dim))
    text = TextEmbeddings(
        rows=rows[:-1], row_category=torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    )
    results = []
    for name in golden.names():
        log_scale = float(name.removeprefix("logits@"))
        logits = class_logits(embeddings, text, min(math.exp(log_scale), 100.0), rows[-1])
        error = golden.diff(name, logits.numpy())[1]
        results.append(
            CaseResult(case=f"{path.stem}/{name}", error=error, tolerance=TOLERANCE, passed=error <= TOLERANCE)
        )
    return results

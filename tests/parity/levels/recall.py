"""c_recall_*: how many annotated regions the class-agnostic proposals recall, seen and unseen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from frozenseg.evaluation import ProposalRecall
from frozenseg.inference.geometry import ImageGeometry
from frozenseg.inference.proposals import proposals
from frozenseg.types import Category, Vocabulary
from tests.parity.golden import load_module
from tests.parity.result import CaseResult

IGNORED = 255


def check(path: Path) -> list[CaseResult]:
    golden = json.loads(path.read_text())
    inputs, arguments = load_module(path.parent, "inputs"), golden["inputs"]
    seed, height, width, categories = (arguments[key] for key in ("seed", "H", "W", "n_classes"))
    data = inputs.post(seed, arguments["Q"], height, width, 2, 2, 4, 4, categories)
    flips = inputs.gen(seed + 9)
    vocabulary = Vocabulary(categories=tuple(Category(name=str(label)) for label in range(categories)))
    metric = ProposalRecall(vocabulary, data["overlap"].astype(bool))
    for image in range(2):
        truth = inputs.label_map(seed + 1 + image, height, width, categories)
        logits = data["mask_logits"][0].copy()
        for k, label in enumerate(label for label in np.unique(truth) if label != IGNORED):
            flip = flips.uniform(size=truth.shape) < 0.003 + 0.012 * k
            logits[k] = np.where((truth == label) ^ flip, 1.0, -1.0)
        metric.update(proposals(torch.from_numpy(logits), ImageGeometry.whole((height, width))), truth, str(image))
    scores = metric.compute()
    assert scores.seen is not None
    assert scores.unseen is not None
    found = {
        "seen_tp": scores.seen.recalled,
        "unseen_tp": scores.unseen.recalled,
        "seen": scores.seen.num_regions,
        "unseen": scores.unseen.num_regions,
    }
    results = []
    for name, value in found.items():
        error = float(np.abs(np.subtract(value, golden[name])).sum())
        results.append(CaseResult(case=f"{path.stem}/{name}", error=error, tolerance=0.0, passed=error == 0.0))
    return results

"""e_loss_*: matcher and criterion alone, with exactly the published random draws."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from frozenseg.losses import Criterion, Losses
from frozenseg.types import DecoderOutput, DecoderPrediction, PanopticTarget
from tests.parity.golden import load_module
from tests.parity.result import CaseResult

TOLERANCE = 1e-5


def panoptic_targets(raw: list[dict[str, np.ndarray]]) -> list[PanopticTarget]:
    return [
        PanopticTarget(
            masks=torch.from_numpy(t["masks"].astype(bool)),
            category_ids=torch.from_numpy(t["labels"]),
            is_thing=torch.ones(len(t["labels"]), dtype=torch.bool),
        )
        for t in raw
    ]


def loss_names(losses: Losses) -> dict[str, float]:
    """The published names: `loss_ce` of the final output, `loss_ce_0` of the first auxiliary one, and so on."""
    named = {}
    for term, values in (("ce", losses.class_), ("mask", losses.mask), ("dice", losses.dice)):
        for level, value in enumerate(values.tolist()):
            named[f"loss_{term}" + ("" if level == 0 else f"_{level - 1}")] = value
    return named


def predictions(inputs: ModuleType, meta: dict[str, int]) -> list[DecoderPrediction]:
    """Outputs 0 (final), 1.. (auxiliary), as leaves that take gradients."""
    g = inputs.gen(meta["seed"])
    size, found = (meta["B"], meta["Q"]), []
    for _ in range(meta["n_aux"] + 1):
        logits = g.standard_normal((*size, meta["n_classes"] + 1)) * 2
        masks = inputs.smooth(g, *size, meta["h"], meta["w"], K=2, noise=0.1, fmax=1.5) * 4
        found.append(
            DecoderPrediction(
                class_logits=torch.from_numpy(logits.astype(np.float32)).requires_grad_(),
                mask_logits=torch.from_numpy(masks.astype(np.float32)).requires_grad_(),
            )
        )
    return found


def check(path: Path) -> list[CaseResult]:
    folder = path.parent
    inputs = load_module(folder, "inputs")
    golden = load_module(folder, "compare").Golden(path)
    meta = golden.meta
    outputs = predictions(inputs, meta)
    raw = inputs.targets(meta["seed"] + 1, meta["B"], meta["H"], meta["W"], meta["n_classes"], meta["counts"])
    final = DecoderOutput(
        mask_logits=outputs[0].mask_logits, class_logits=outputs[0].class_logits, auxiliary=tuple(outputs[1:])
    )
    torch.manual_seed(meta["torch_seed"])
    losses = Criterion(num_points=meta["num_points"])(final, panoptic_targets(raw))
    rand_after = float(torch.rand(1))
    torch.autograd.backward(losses.total)

    def result(name: str, error: float, tolerance: float = TOLERANCE) -> CaseResult:
        return CaseResult(case=f"{path.stem}/{name}", error=error, tolerance=tolerance, passed=error <= tolerance)

    wanted = json.loads(str(golden.get("losses")))
    ours = loss_names(losses)
    results = [result(name, abs(ours[name] - value)) for name, value in wanted.items()]
    total = float(golden.get("total_weighted"))
    results.append(result("total_weighted", abs(losses.total.item() - total) / max(abs(total), 1.0)))
    results.append(result("rand_after", abs(rand_after - float(golden.get("rand_after"))), 0.0))
    for level, prediction in enumerate(outputs):
        for b, match in enumerate(losses.matches[level]):
            pair = torch.stack([match.query, match.target]).numpy()
            expected = golden.get(f"match_{level}_{b}")
            wrong = float((pair != expected).sum()) if pair.shape == expected.shape else float("inf")
            results.append(result(f"match_{level}_{b}", wrong, 0.0))
        for name, leaf in (("logits", prediction.class_logits), ("masks", prediction.mask_logits)):
            assert leaf.grad is not None
            _, mean_rel = golden.diff(f"grad_{name}_{level}", leaf.grad.numpy())
            results.append(result(f"grad_{name}_{level}", mean_rel))
    return results

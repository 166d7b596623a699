"""e_train_*: the whole trained part learns: losses, gradients, weight decay and five updates of the optimiser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from frozenseg.decoder import DecoderConfig, MaskDecoder, decoder_key
from frozenseg.losses import Criterion, Losses
from frozenseg.training import OptimizerSettings, TorchEngine, parameter_groups
from tests.parity.golden import load_module
from tests.parity.levels.head import filled_decoder, head_features, head_text
from tests.parity.levels.loss import loss_names, panoptic_targets
from tests.parity.result import CaseResult

PREFIX = "sem_seg_head."
LOSS, NORM, GRADIENT, AFTER = 5e-4, 1e-2, 2e-2, 1e-2
SECOND_LOSS, CHAOTIC = 5e-3, 0.1
"""From the second update on, rounding decides which points are drawn and which queries match."""


class _Results:
    def __init__(self, stem: str) -> None:
        self.stem = stem
        self.lines: list[CaseResult] = []

    def add(self, name: str, error: float, tolerance: float) -> None:
        label = f"{self.stem}/{name}"
        self.lines.append(CaseResult(case=label, error=error, tolerance=tolerance, passed=error <= tolerance))

    def relative(self, name: str, value: float, wanted: float, tolerance: float) -> None:
        self.add(name, abs(value - wanted) / max(abs(wanted), 1e-12), tolerance)


def check(path: Path) -> list[CaseResult]:
    """Arrays of the .npz, figures of the .json beside it."""
    wanted: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    meta = wanted["meta"]
    fill, inputs = load_module(path.parent, "fill"), load_module(path.parent, "inputs")
    golden = load_module(path.parent, "compare").Golden(path)
    drawn = inputs.head(meta["seed"], meta["kind"], meta["B"], meta["H"], meta["W"], meta["n_classes"])
    raw = inputs.targets(meta["seed"] + 1, meta["B"], meta["H"], meta["W"], meta["n_classes"], meta["counts"])
    config = DecoderConfig(
        clip_channels=tuple(inputs.CHANNELS[meta["kind"]]),
        embedding_dim=inputs.EMBED[meta["kind"]],
        sam_channels=drawn["sam"].shape[1],
        sam_memory="published",
    )
    decoder = filled_decoder(config, fill, meta.get("prefix", PREFIX), meta["salt"])
    parameters = dict(decoder.named_parameters())
    results = _Results(path.stem)
    _check_weight_decay(results, decoder, wanted["weight_decay_by_param"])
    settings = OptimizerSettings(
        learning_rate=1e-4, weight_decay=0.05, betas=(0.9, 0.999), epsilon=1e-8, clip_norm=0.01
    )
    engine = TorchEngine(decoder, settings)
    features, text, targets, criterion = head_features(drawn), head_text(drawn), panoptic_targets(raw), Criterion()
    totals = wanted["total_loss_at_steps_0_to_5"]
    for step, total in enumerate(totals):
        torch.manual_seed(meta["tseed"] + step)
        losses = criterion(engine.forward(features, text), targets)
        results.relative(
            f"total_loss_{step}", losses.total.item(), total, (LOSS, SECOND_LOSS)[step] if step < 2 else CHAOTIC
        )
        if step == len(totals) - 1:
            break
        engine.backward(losses.total, last=True)
        if step == 0:
            _check_first_step(results, losses, parameters, golden, wanted)
        norm = engine.step(settings.learning_rate)
        wanted_norm = wanted["global_grad_norm_before_clip_steps_0_to_4"][step]
        results.relative(f"global_norm_{step}", norm, wanted_norm, NORM if step == 0 else CHAOTIC)
    for name in golden.names():
        if name.startswith("after5/"):
            value = parameters[_ours(name.removeprefix("after5/"))].detach().numpy()
            results.add(name, golden.diff(name, value)[1], AFTER)
    return results.lines


def _ours(published: str) -> str:
    key = decoder_key(published)
    assert key is not None, published
    return key


def _check_weight_decay(results: _Results, decoder: MaskDecoder, wanted: dict[str, float]) -> None:
    found = {name: group.weight_decay for group in parameter_groups(decoder, 0.05) for name in group.parameters}
    expected = {_ours(key): decay for key, decay in wanted.items()}
    results.add("weight_decay", float(len(found.items() ^ expected.items())), 0.0)


def _check_first_step(
    results: _Results, losses: Losses, parameters: dict[str, torch.nn.Parameter], golden: Any, wanted: dict[str, Any]
) -> None:
    """Losses, the norm of every gradient, and the gradients that the file holds."""
    ours = loss_names(losses)
    for name, value in wanted["losses_step0"].items():
        results.relative(name, ours[name], value, LOSS)
    gradients: dict[str, np.ndarray] = {}
    for name, parameter in parameters.items():
        assert parameter.grad is not None, name
        gradients[name] = parameter.grad.numpy()
    norms = wanted["grad_norms_step0"]
    errors = {key: abs(float(np.linalg.norm(gradients[_ours(key)])) - norm) / norm for key, norm in norms.items()}
    worst = max(errors, key=lambda key: errors[key])
    results.add(f"largest of {len(errors)} gradient norms ({worst})", errors[worst], NORM)
    results.add("trainable tensors", float(len({_ours(key) for key in norms} ^ gradients.keys())), 0.0)
    for name in golden.names():
        if name.startswith("grad/"):
            gradient = gradients[_ours(name.removeprefix("grad/"))]
            results.add(name, golden.diff(name, gradient)[1], GRADIENT)

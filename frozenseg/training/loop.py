"""The training loop. It stops by step count, never by data exhaustion: workers that end unevenly hang a collective."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from frozenseg.errors import FrozenSegError
from frozenseg.losses import Criterion, Losses
from frozenseg.training.engine import Engine
from frozenseg.training.schedule import StepDecay
from frozenseg.training.state import Consumption, LoopState
from frozenseg.types import DecoderOutput, DecoderPrediction, PanopticTarget, TextEmbeddings, TrainingBatch


class DivergedError(FrozenSegError):
    """Too many steps in this run had a loss or gradient that is not a finite number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """Fields: num_steps: the run ends when this many are finished, over all its starts; num_samples: of an epoch;
    accumulation: micro-batches per step and worker; checkpoint_every: steps; max_skipped: non-finite steps that end it.
    """

    num_steps: int
    num_samples: int
    accumulation: int = 1
    checkpoint_every: int = 500
    max_skipped: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one step did, over all workers; hooks read it.

    Fields: step: finished steps, this one included; epoch: of its last sample; total, class_, mask, dice: mean over
    workers and micro-batches, `total` weighted over all outputs, the terms of the final output unweighted;
    gradient_norm: before clipping; num_images: padding not counted; seconds: of the step on this worker, data_seconds
    of them waiting for data; is_skipped: the loss or gradient was not finite, nothing was updated.
    """

    step: int
    epoch: int
    total: float
    class_: float
    mask: float
    dice: float
    learning_rate: float
    gradient_norm: float
    num_images: int
    seconds: float
    data_seconds: float
    is_skipped: bool
    image_ids: tuple[str, ...]


class Hook(Protocol):
    """Watches a run; `close` is called when it ends, however it ends."""

    def on_step(self, report: StepReport) -> None: ...

    def close(self) -> None: ...


Save = Callable[[LoopState], None]
"""Stores a checkpoint; called by every worker at the same step."""


@dataclass(slots=True)
class _Sums:
    """Of the micro-batches of a step on this worker: total, class, mask, dice, images, non-finite ones."""

    values: Tensor
    num_images: int = 0
    data_seconds: float = 0.0
    epoch: int = 0
    num_finite: int = 0
    image_ids: tuple[str, ...] = ()


def run(
    engine: Engine,
    batches: Iterator[TrainingBatch],
    text: TextEmbeddings,
    criterion: Criterion,
    schedule: StepDecay,
    settings: LoopSettings,
    *,
    state: LoopState | None = None,
    hooks: Sequence[Hook] = (),
    save: Save | None = None,
) -> LoopState:
    """Trains until `settings.num_steps` steps are finished.

    Args: engine: at `state`; batches: this worker's endless micro-batches from where `state` is, padding rows included,
    the same number of rows on every worker; text: rows of the training vocabulary; save: see `Save`; called every
    `checkpoint_every` steps and at the end.
    Returns: where the run is at the end.
    Raises: DivergedError: `max_skipped` steps were not finite.
    """
    state = state or LoopState()
    step, num_skipped = state.step, state.num_skipped
    consumption = Consumption(state)
    try:
        while step < settings.num_steps:
            start = time.perf_counter()
            sums = _micro_batches(engine, batches, text, criterion, settings.accumulation, consumption)
            rate = schedule(step)
            norm = engine.step(rate) if sums.num_finite else math.nan
            step += 1
            report = _report(engine, sums, step, rate, norm, settings.accumulation, time.perf_counter() - start)
            num_skipped += report.is_skipped
            for hook in hooks:
                hook.on_step(report)
            if num_skipped - state.num_skipped >= settings.max_skipped:
                raise DivergedError(f"{settings.max_skipped} steps were not finite, the last one step {step}: stopped")
            if save is not None and (step % settings.checkpoint_every == 0 or step == settings.num_steps):
                merged = consumption.merged(engine.gather(consumption.own()), settings.num_samples)
                saved = LoopState(step=step, consumed=merged, num_skipped=num_skipped)
                save(saved)
                consumption = Consumption(saved)
    finally:
        for hook in hooks:
            hook.close()
    merged = consumption.merged(engine.gather(consumption.own()), settings.num_samples)
    return LoopState(step=step, consumed=merged, num_skipped=num_skipped)


def _micro_batches(
    engine: Engine,
    batches: Iterator[TrainingBatch],
    text: TextEmbeddings,
    criterion: Criterion,
    accumulation: int,
    consumption: Consumption,
) -> _Sums:
    """Forward and backward of one step's micro-batches. A non-finite one on any worker adds nothing on all of them."""
    sums = _Sums(values=torch.zeros(6, dtype=torch.float64))
    for index in range(accumulation):
        waiting = time.perf_counter()
        batch = next(batches)
        sums.data_seconds += time.perf_counter() - waiting
        real = _real_rows(batch)
        for epoch, image_ids in batch.consumed.items():
            consumption.add(epoch, image_ids)
            sums.epoch = max(sums.epoch, epoch)
        losses, num_images = _losses(engine, batch, real, text, criterion)
        values = _values(losses, num_images)
        values = engine.sum_over_workers(values)
        is_finite, is_last = values[5] == 0, index == accumulation - 1
        if is_finite:
            # A worker with nothing but padding still takes part in the backward pass, with zeros.
            engine.backward(losses.total if num_images else losses.total * 0, last=is_last)
            sums.num_finite += 1
        elif is_last and sums.num_finite:
            engine.backward(engine.zero_loss(), last=True)
        sums.values += values
        sums.num_images += int(values[4])
        sums.image_ids += tuple(batch.image_ids[row] for row in real)
    return sums


def _real_rows(batch: TrainingBatch) -> list[int]:
    padding = batch.is_padding or (False,) * len(batch.image_ids)
    return [row for row, is_padding in enumerate(padding) if not is_padding]


def _losses(
    engine: Engine, batch: TrainingBatch, real: list[int], text: TextEmbeddings, criterion: Criterion
) -> tuple[Losses, int]:
    """Losses of the real rows, the mask terms divided by the mean number of masks per worker. Source: MODEL, "Loss".

    A batch of nothing but padding is run as if its first row were an image without targets; the caller voids it.
    """
    output = engine.forward(batch.features, text)
    rows = real or [0]
    targets = [batch.targets[row].to(engine.device) for row in rows] if real else [_no_target(batch.targets[0])]
    if len(rows) < len(batch.image_ids):
        output = _select(output, rows)
    count = torch.tensor([float(sum(target.masks.shape[0] for target in targets))], dtype=torch.float64)
    normaliser = max(float(engine.sum_over_workers(count)) / engine.world_size, 1.0)
    return criterion(output, targets, normaliser), len(real)


def _no_target(like: PanopticTarget) -> PanopticTarget:
    return PanopticTarget(masks=like.masks[:0], category_ids=like.category_ids[:0], is_thing=like.is_thing[:0])


def _select(output: DecoderOutput, rows: list[int]) -> DecoderOutput:
    return DecoderOutput(
        mask_logits=output.mask_logits[rows],
        class_logits=output.class_logits[rows],
        auxiliary=tuple(
            DecoderPrediction(mask_logits=p.mask_logits[rows], class_logits=p.class_logits[rows])
            for p in output.auxiliary
        ),
    )


def _values(losses: Losses, num_images: int) -> Tensor:
    """[6] float64: total, class, mask, dice (zero without images), images, 1 when the total is not finite."""
    terms = torch.stack([losses.total, losses.class_[0], losses.mask[0], losses.dice[0]]).detach().double().cpu()
    is_finite = bool(torch.isfinite(terms[0])) or not num_images
    terms = terms if num_images and is_finite else torch.zeros_like(terms)
    return torch.cat([terms, torch.tensor([float(num_images), float(not is_finite)], dtype=torch.float64)])


def _report(
    engine: Engine, sums: _Sums, step: int, rate: float, norm: float, accumulation: int, seconds: float
) -> StepReport:
    is_skipped = sums.num_finite == 0 or not math.isfinite(norm)
    scale = engine.world_size * max(sums.num_finite, 1)
    total, class_, mask, dice = ([math.nan] * 4) if sums.num_finite == 0 else (sums.values[:4] / scale).tolist()
    assert accumulation >= sums.num_finite
    return StepReport(
        step=step,
        epoch=sums.epoch,
        total=total,
        class_=class_,
        mask=mask,
        dice=dice,
        learning_rate=rate,
        gradient_norm=norm,
        num_images=sums.num_images,
        seconds=seconds,
        data_seconds=sums.data_seconds,
        is_skipped=is_skipped,
        image_ids=sums.image_ids,
    )

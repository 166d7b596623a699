"""The loop with the plain engine: it learns, resumes to the bit, skips what is not finite, and voids padding."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import pytest
import torch

from frozenseg.losses import Criterion
from frozenseg.training import (
    DivergedError,
    LoopSettings,
    LoopState,
    OptimizerSettings,
    StepDecay,
    TorchEngine,
    parameter_groups,
    run,
)
from frozenseg.types import TrainingBatch
from tests.training.scenes import Recorder, make_batch, make_batches, make_decoder, make_text

FAST = OptimizerSettings(learning_rate=2e-3)


def settings(num_steps: int, **changes: int) -> LoopSettings:
    return LoopSettings(**{"num_steps": num_steps, "num_samples": 4, **changes})


def train(
    engine: TorchEngine, batches: Iterator[TrainingBatch], limits: LoopSettings, state: LoopState | None = None
) -> tuple[Recorder, LoopState]:
    recorder = Recorder()
    schedule = StepDecay(base=FAST.learning_rate)
    reached = run(engine, batches, make_text(), Criterion(128), schedule, limits, state=state, hooks=[recorder])
    assert recorder.is_closed
    return recorder, reached


def test_four_scenes_are_learnt_by_heart() -> None:
    torch.manual_seed(0)
    engine = TorchEngine(make_decoder(), FAST)
    recorder, _ = train(engine, make_batches(batch_size=4), settings(60))
    assert sum(recorder.losses[-5:]) / 5 < recorder.losses[0] / 4
    batch = make_batch(("scene-0", "scene-1", "scene-2", "scene-3"))
    with torch.no_grad():
        output = engine.forward(batch.features, make_text())
    scores = output.class_logits.softmax(-1)[..., :-1]
    semantic = torch.einsum("bqk,bqhw->bkhw", scores, output.mask_logits.sigmoid()).argmax(1)
    truth = torch.stack([target.masks[:, ::4, ::4].int().argmax(0) for target in batch.targets])
    assert (semantic == truth).float().mean() > 0.9


def test_resume_joins_the_unbroken_run_to_the_bit() -> None:
    torch.manual_seed(0)
    whole = TorchEngine(make_decoder(), FAST)
    unbroken, _ = train(whole, make_batches(), settings(5))

    torch.manual_seed(0)
    first = TorchEngine(make_decoder(), FAST)
    before, reached = train(first, make_batches(), settings(3))
    state, random_state = first.save(), torch.get_rng_state()
    assert reached.consumed == {1: ("scene-0", "scene-1")}

    second = TorchEngine(make_decoder(seed=9), FAST)
    second.load(state)
    torch.manual_seed(123)
    torch.set_rng_state(random_state)
    after, end = train(second, make_batches(first=6), settings(5), reached)
    assert before.losses + after.losses == unbroken.losses
    assert end.step == 5
    assert end.consumed == {2: ("scene-0", "scene-1")}
    for name, value in whole.save().parameters.items():
        assert torch.equal(value, second.save().parameters[name]), name


def test_loading_a_state_leaves_that_state_alone() -> None:
    engine = TorchEngine(make_decoder(), FAST)
    train(engine, make_batches(), settings(1))
    state = engine.save()
    kept = {name: value.clone() for name, value in state.second_moments.items()}
    other = TorchEngine(make_decoder(seed=1), FAST)
    other.load(state)
    train(other, make_batches(), settings(1))
    assert all(torch.equal(value, state.second_moments[name]) for name, value in kept.items())


def test_accumulation_averages_the_gradients_of_the_micro_batches() -> None:
    """Two micro-batches of one image each move the weights as a mean of two gradients, which is neither of them."""
    torch.manual_seed(0)
    engine = TorchEngine(make_decoder(), FAST, accumulation=2)
    recorder, reached = train(engine, make_batches(batch_size=1), settings(1, accumulation=2))
    assert recorder.reports[0].num_images == 2
    assert reached.consumed == {0: ("scene-0", "scene-1")}
    torch.manual_seed(0)
    parts = TorchEngine(make_decoder(), FAST)
    expected = {}
    for batch in (make_batch(("scene-0",)), make_batch(("scene-1",))):
        output = parts.forward(batch.features, make_text())
        torch.autograd.backward(Criterion(128)(output, batch.targets).total / 2)
    expected = torch.nn.utils.get_total_norm([p.grad for p in parts.module.parameters() if p.grad is not None])
    assert recorder.reports[0].gradient_norm == pytest.approx(float(expected), rel=1e-4)


def test_a_step_that_is_not_finite_is_skipped_counted_and_in_the_end_stops_the_run() -> None:
    def poisoned() -> Iterator[TrainingBatch]:
        for index, batch in enumerate(make_batches()):
            if index % 2:
                bad = batch.features.sam.clone()
                bad[0, 0, 0, 0] = math.inf
                batch = dataclasses.replace(batch, features=dataclasses.replace(batch.features, sam=bad))
            yield batch

    engine = TorchEngine(make_decoder(), FAST)
    recorder, reached = train(engine, poisoned(), settings(4, max_skipped=3))
    assert [report.is_skipped for report in recorder.reports] == [False, True, False, True]
    assert reached.num_skipped == 2
    assert all(torch.isfinite(value).all() for value in engine.save().parameters.values())
    with pytest.raises(DivergedError, match="2 steps were not finite"):
        train(TorchEngine(make_decoder(), FAST), poisoned(), settings(9, max_skipped=2))


def test_padding_rows_carry_no_loss_and_a_batch_of_nothing_else_moves_nothing_by_gradient() -> None:
    torch.manual_seed(0)
    full, _ = train(TorchEngine(make_decoder(), FAST), iter([make_batch(("scene-1",))]), settings(1))
    torch.manual_seed(0)
    padded_batch = make_batch(("scene-1", "scene-1"), is_padding=(False, True))
    # Same features in the first row as alone: the noise depends on the ids of the batch.
    alone = make_batch(("scene-1",)).features
    joined = dataclasses.replace(
        padded_batch.features,
        clip_pyramid=tuple(level.repeat(2, 1, 1, 1) for level in alone.clip_pyramid),
        sam=alone.sam.repeat(2, 1, 1, 1),
    )
    padded_batch = dataclasses.replace(padded_batch, features=joined)
    padded, _ = train(TorchEngine(make_decoder(), FAST), iter([padded_batch]), settings(1))
    assert padded.reports[0].num_images == 1
    assert padded.losses[0] == pytest.approx(full.losses[0], rel=1e-5)
    only_padding = make_batch(("scene-0", "scene-1"), is_padding=(True, True))
    recorder, _ = train(TorchEngine(make_decoder(), FAST), iter([only_padding]), settings(1))
    assert recorder.reports[0].gradient_norm == 0
    assert recorder.reports[0].num_images == 0


def test_norms_and_embeddings_do_not_decay_and_everything_trains_once() -> None:
    decoder = make_decoder()
    decayed, undecayed = parameter_groups(decoder, 0.05)
    assert (decayed.weight_decay, undecayed.weight_decay) == (0.05, 0.0)
    assert "void_embedding.weight" in undecayed.parameters
    assert all(p.dim() <= 1 or "embed" in n or "query" in n or "level" in n for n, p in undecayed.parameters.items())
    names = [*decayed.parameters, *undecayed.parameters]
    assert sorted(names) == sorted(name for name, _ in decoder.named_parameters())


@pytest.mark.parametrize(("step", "rate"), [(0, 1.0), (9, 1.0), (10, 0.1), (19, 0.1), (20, 0.01)])
def test_step_decay(step: int, rate: float) -> None:
    assert StepDecay(base=1.0, milestones=(10, 20))(step) == pytest.approx(rate)

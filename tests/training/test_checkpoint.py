"""Checkpoints survive truncation, forgery and kills, and are kept by the rule."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from frozenseg.errors import FormatVersionError
from frozenseg.training import (
    Checkpoint,
    CheckpointStore,
    DamagedCheckpointError,
    EngineState,
    LoopState,
    restore_random_state,
)


def make_checkpoint(step: int, quality: float | None = None) -> Checkpoint:
    values = [{"weight": torch.full((3, 2), float(step)), "scale": torch.tensor(float(step))} for _ in range(3)]
    engine = EngineState(parameters=values[0], first_moments=values[1], second_moments=values[2], num_updates=step)
    loop = LoopState(step=step, consumed={2: ("a", "b")}, num_skipped=1)
    scores = {} if quality is None else {"PQ": quality, "mIoU": -quality}
    return Checkpoint(loop=loop, engine=engine, random_states=(torch.get_rng_state(),), scores=scores)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(make_checkpoint(7, 0.5))
    found = CheckpointStore(tmp_path).newest()
    assert found is not None
    assert found.loop == LoopState(step=7, consumed={2: ("a", "b")}, num_skipped=1)
    assert torch.equal(found.engine.parameters["weight"], torch.full((3, 2), 7.0))
    assert found.engine.second_moments["scale"].shape == ()
    assert found.scores == {"PQ": 0.5, "mIoU": -0.5}
    assert torch.equal(found.random_states[0], torch.get_rng_state())
    assert not list(tmp_path.rglob("*.tmp"))


def test_nothing_there_is_nothing_found(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "new").newest() is None


@pytest.mark.parametrize("damage", ["truncate", "flip", "no record", "half a record", "no tensors"])
def test_a_damaged_checkpoint_is_skipped_by_name_for_the_one_before(tmp_path: Path, damage: str) -> None:
    told: list[str] = []
    store = CheckpointStore(tmp_path, warn=told.append)
    store.save(make_checkpoint(4))
    folder = Path(store.save(make_checkpoint(8)))
    tensors, record = folder / "state.safetensors", folder / "state.json"
    data = tensors.read_bytes()
    if damage == "truncate":
        tensors.write_bytes(data[:-1])
    elif damage == "flip":
        tensors.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "no record":
        record.unlink()
    elif damage == "half a record":
        record.write_bytes(record.read_bytes()[:40])
    else:
        tensors.unlink()
    with pytest.raises(DamagedCheckpointError, match="step-00000008"):
        store.load(8)
    found = store.newest()
    assert found is not None
    assert found.loop.step == 4
    assert len(told) == 1
    assert "step-00000008" in told[0]


def test_the_last_ones_and_the_best_are_kept(tmp_path: Path) -> None:
    lines: list[str] = []
    store = CheckpointStore(tmp_path, keep_last=2, best_by="PQ", warn=lines.append)
    for step, quality in [(1, 0.1), (2, 0.9), (3, 0.3), (4, 0.2), (5, None)]:
        store.save(make_checkpoint(step, quality))
    assert store.steps() == [2, 4, 5]
    best, other = store.best(), CheckpointStore(tmp_path, best_by="mIoU").best()
    assert best is not None
    assert other is not None
    assert (best.loop.step, other.loop.step) == (2, 4)
    assert CheckpointStore(tmp_path).best() is None
    (tmp_path / "step-00000002" / "state.safetensors").write_bytes(b"")
    best = store.best()
    assert best is not None
    assert best.loop.step == 4
    assert "step-00000002" in lines[0]


def test_a_run_that_goes_back_does_not_lose_its_newest_to_the_rule(tmp_path: Path) -> None:
    """After a damaged checkpoint at 8, the run saves 6 again: that one must stay although 8 is a later name."""
    store = CheckpointStore(tmp_path, keep_last=1, warn=lambda line: None)
    (Path(store.save(make_checkpoint(8))) / "state.json").unlink()
    store.save(make_checkpoint(6))
    found = store.newest()
    assert found is not None
    assert found.loop.step == 6


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    record = Path(store.save(make_checkpoint(1))) / "state.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"format_version": 99}))
    with pytest.raises(FormatVersionError, match="99"):
        store.newest()


def test_any_fsspec_address_will_do() -> None:
    store = CheckpointStore("memory://runs/a", keep_last=1)
    store.save(make_checkpoint(1))
    store.save(make_checkpoint(2))
    assert store.steps() == [2]
    found = store.newest()
    assert found is not None
    assert found.loop.step == 2


def test_random_state_comes_back_at_the_same_number_of_workers_and_is_new_at_another() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    expected = torch.rand(3)
    restore_random_state([state], 0, 1, seed=0, step=4)
    assert torch.equal(torch.rand(3), expected)
    restore_random_state([state], 0, 2, seed=0, step=4)
    first = torch.rand(3)
    restore_random_state([state], 1, 2, seed=0, step=4)
    second = torch.rand(3)
    restore_random_state([state], 0, 2, seed=0, step=4)
    assert torch.equal(torch.rand(3), first)
    assert not torch.equal(first, second)

"""Run by test_train_engines.py in processes of their own: DeepSpeed keeps global state that no test should inherit.

    python engines_script.py compare                   engines and ZeRO stages, one process
    python engines_script.py train FOLDER ENGINE RANK WORLD LAST_STEP      one of WORLD workers of a run in FOLDER

Prints one JSON object as its last line.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from frozenseg.losses import Criterion
from frozenseg.training import (
    Checkpoint,
    CheckpointStore,
    Engine,
    EngineState,
    LoopSettings,
    LoopState,
    OptimizerSettings,
    StepDecay,
    TorchEngine,
    restore_random_state,
    run,
)
from pipelines.deepspeed_engine import DeepSpeedEngine, ensure_process_group
from tests.training.scenes import Recorder, make_batches, make_decoder, make_text

SETTINGS = OptimizerSettings(learning_rate=1e-3)
NUM_SCENES = 12


def build(kind: str, micro_batch_size: int) -> Engine:
    """`torch`, or `zero0` to `zero3`."""
    if kind == "torch":
        return TorchEngine(make_decoder(), SETTINGS)
    stage = int(kind.removeprefix("zero"))
    return DeepSpeedEngine(make_decoder(), SETTINGS, micro_batch_size=micro_batch_size, zero_stage=stage)  # type: ignore[arg-type]


def steps(engine: Engine, num_steps: int, seed: int = 0) -> dict[str, list[float]]:
    torch.manual_seed(seed)
    recorder = Recorder()
    limits = LoopSettings(num_steps=num_steps, num_samples=4)
    run(engine, make_batches(), make_text(), Criterion(64), StepDecay(base=1e-3), limits, hooks=[recorder])
    return {"losses": recorder.losses, "norms": [report.gradient_norm for report in recorder.reports]}


def furthest(first: EngineState, second: EngineState) -> float:
    """Largest difference between two states, moments included; infinite when the names differ."""
    largest = 0.0
    for ours, theirs in (
        (first.parameters, second.parameters),
        (first.first_moments, second.first_moments),
        (first.second_moments, second.second_moments),
    ):
        if ours.keys() != theirs.keys():
            return float("inf")
        largest = max(largest, *(float((ours[name] - theirs[name]).abs().max()) for name in ours))
    return largest


def compare() -> dict[str, object]:
    ensure_process_group()
    plain = build("torch", 2)
    report: dict[str, object] = {"torch": steps(plain, 2)}
    state = plain.save()
    resumed = build("torch", 2)
    resumed.load(state)
    report["torch resumed"] = steps(resumed, 1, seed=1)
    for kind in ("zero0", "zero1", "zero2", "zero3"):
        engine = build(kind, 2)
        report[kind] = steps(engine, 2)
        engine.load(state)
        report[f"{kind} loaded"] = furthest(engine.save(), state)
        report[f"{kind} resumed"] = steps(engine, 1, seed=1)
        report[f"{kind} poisoned"] = poison(engine)
    report["torch poisoned"] = poison(resumed)
    return report


def poison(engine: Engine) -> dict[str, float]:
    """A step whose loss is finite and whose gradient is not; what it changed."""
    before = engine.save()
    batch = next(make_batches())
    output = engine.forward(batch.features, make_text())
    every_output = [output.mask_logits.sum(), output.class_logits.sum()]
    every_output += [p.mask_logits.sum() + p.class_logits.sum() for p in output.auxiliary]
    engine.backward(torch.sqrt(torch.stack(every_output).sum() * 0), last=True)
    norm = engine.step(1e-3)
    after = engine.save()
    return {"norm": norm, "changed": furthest(before, after), "updates": after.num_updates - before.num_updates}


def train(folder: Path, kind: str, rank: int, world_size: int, last_step: int) -> dict[str, object]:
    """A run as the Ray Train worker does it, without Ray: newest checkpoint, this rank's scenes, to `last_step`."""
    os.environ.update(LOCAL_RANK=str(rank))
    folder.mkdir(parents=True, exist_ok=True)
    rendezvous = folder / f"rendezvous-{world_size}-{last_step}"
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world_size)
    micro_batch = 4 // world_size
    engine, store = build(kind, micro_batch), CheckpointStore(folder / "checkpoints")
    torch.manual_seed(rank)
    newest, state = store.newest(), LoopState()
    if newest is not None:
        state = newest.loop
        engine.load(newest.engine)
        restore_random_state(newest.random_states, engine.rank, engine.world_size, 0, state.step)

    def save(reached: LoopState) -> None:
        engine_state, random_states = engine.save(), tuple(engine.gather(torch.get_rng_state()))
        if engine.rank == 0:
            store.save(Checkpoint(loop=reached, engine=engine_state, random_states=random_states))

    recorder = Recorder()
    limits = LoopSettings(num_steps=last_step, num_samples=NUM_SCENES, checkpoint_every=2)
    batches = make_batches(NUM_SCENES, micro_batch, first=4 * state.step, rank=rank, world_size=world_size)
    text = make_text()
    reached = run(
        engine, batches, text, Criterion(64), StepDecay(base=1e-3), limits, state=state, hooks=[recorder], save=save
    )
    return {"losses": recorder.losses, "consumed": {str(e): sorted(ids) for e, ids in reached.consumed.items()}}


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "compare":
        answer = compare()
    else:
        answer = train(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]), int(sys.argv[6]))
    print("\n" + json.dumps(answer), flush=True)
    if dist.get_world_size() > 1:
        dist.barrier()  # none leaves while another still talks to it
    dist.destroy_process_group()  # else gloo's threads are ended by the interpreter's exit, which may abort the process

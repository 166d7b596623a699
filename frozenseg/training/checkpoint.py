"""Checkpoints: atomic, verified on load, independent of engine and number of workers, local or on any fsspec address.

A checkpoint is a folder `step-00000040` with `state.safetensors` (decoder, moments, random states) and `state.json`
(counts, consumed samples, size and sha256 of the other file). The JSON is written last: without it there is no
checkpoint, and with it the tensors must be the ones it names.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import safetensors.torch
import torch
from torch import Tensor

from frozenseg.errors import FormatVersionError, FrozenSegError
from frozenseg.training.engine import EngineState
from frozenseg.training.state import LoopState

FORMAT_VERSION = 1
_NAME = re.compile(r"step-(\d{8,})")
_TENSORS, _RECORD = "state.safetensors", "state.json"


class DamagedCheckpointError(FrozenSegError):
    """A checkpoint whose bytes are not those that were written."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """Fields: loop; engine; random_states: torch's CPU generator of each worker, by rank; scores: of an evaluation at
    this step, by name, empty when none was made; config: the run's config, as JSON would hold it."""

    loop: LoopState
    engine: EngineState
    random_states: tuple[Tensor, ...]
    scores: Mapping[str, float] = field(default_factory=dict)
    config: Any = None


class CheckpointStore:
    """The checkpoints of one run.

    Args: address: folder or fsspec address; keep_last: how many of the newest stay; best_by: name of the score whose
    highest one stays as well, None for none; warn: is told, by name, of a checkpoint that is skipped.
    """

    def __init__(
        self,
        address: str | Path,
        *,
        keep_last: int = 3,
        best_by: str | None = None,
        warn: Callable[[str], None] = print,
    ) -> None:
        self._fs, root = fsspec.core.url_to_fs(str(address))
        self._root = str(root).rstrip("/")
        self._is_local = isinstance(self._fs, fsspec.implementations.local.LocalFileSystem)
        self._keep_last, self._best_by, self._warn = keep_last, best_by, warn

    def steps(self) -> list[int]:
        """Steps of the checkpoints there are, ascending, whether whole or damaged."""
        self._fs.invalidate_cache()
        if not self._fs.isdir(self._root):
            return []
        names = (str(path).rstrip("/").rsplit("/", 1)[-1] for path in self._fs.ls(self._root, detail=False))
        return sorted(int(match[1]) for name in names if (match := _NAME.fullmatch(name)))

    def save(self, checkpoint: Checkpoint) -> str:
        """Writes a checkpoint whole or not at all, then removes what the rule doesn't keep. Returns its address."""
        tensors = _tensors(checkpoint)
        data = safetensors.torch.save(tensors)
        record = {
            "format_version": FORMAT_VERSION,
            "step": checkpoint.loop.step,
            "consumed": {str(epoch): list(ids) for epoch, ids in checkpoint.loop.consumed.items()},
            "num_skipped": checkpoint.loop.num_skipped,
            "num_updates": checkpoint.engine.num_updates,
            "num_workers": len(checkpoint.random_states),
            "scores": dict(checkpoint.scores),
            "config": checkpoint.config,
            "num_bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        folder = self._folder(checkpoint.loop.step)
        self._fs.makedirs(folder, exist_ok=True)
        # A leftover record of a killed run at the same step would vouch for tensors that are being replaced.
        if self._fs.exists(f"{folder}/{_RECORD}"):
            self._fs.rm_file(f"{folder}/{_RECORD}")
        self._write(f"{folder}/{_TENSORS}", data)
        self._write(f"{folder}/{_RECORD}", json.dumps(record, ensure_ascii=False).encode())
        self._prune(checkpoint.loop.step)
        return folder

    def load(self, step: int) -> Checkpoint:
        """The checkpoint of a step.

        Raises:
            DamagedCheckpointError: incomplete or altered, with its address.
            FormatVersionError: written by another version.
        """
        folder = self._folder(step)
        record = self._record(folder)
        if record.get("format_version") != FORMAT_VERSION:
            found = record.get("format_version")
            raise FormatVersionError(f"checkpoint {folder}: format version {found!r}, this code reads {FORMAT_VERSION}")
        try:
            data = self._fs.cat_file(f"{folder}/{_TENSORS}")
        except OSError as error:
            raise DamagedCheckpointError(f"checkpoint {folder}: {_TENSORS} cannot be read ({error})") from error
        if len(data) != record["num_bytes"]:
            raise DamagedCheckpointError(
                f"checkpoint {folder}: {_TENSORS} has {len(data)} bytes, {record['num_bytes']} expected"
            )
        if hashlib.sha256(data).hexdigest() != record["sha256"]:
            raise DamagedCheckpointError(f"checkpoint {folder}: {_TENSORS} is not the file that was written (sha256)")
        return _checkpoint(record, safetensors.torch.load(data))

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint; damaged ones after it are skipped and named. None when there is none."""
        for step in reversed(self.steps()):
            try:
                return self.load(step)
            except DamagedCheckpointError as error:
                self._warn(f"{error}; skipped for the one before")
        return None

    def best(self) -> Checkpoint | None:
        """The whole checkpoint with the highest score of the name `best_by`, the later one of equals; damaged ones are
        skipped and named. None when none was scored."""
        for step in self._by_score():
            try:
                return self.load(step)
            except DamagedCheckpointError as error:
                self._warn(f"{error}; skipped for the next best")
        return None

    def _by_score(self) -> list[int]:
        """Steps with a score, best first."""
        scored = [(score, step) for step in self.steps() if (score := self._score(step)) is not None]
        return [step for _, step in sorted(scored, reverse=True)]

    def _folder(self, step: int) -> str:
        return f"{self._root}/step-{step:08d}"

    def _record(self, folder: str) -> dict[str, Any]:
        try:
            record = json.loads(self._fs.cat_file(f"{folder}/{_RECORD}"))
        except OSError as error:
            raise DamagedCheckpointError(
                f"checkpoint {folder}: it has no {_RECORD}, so it was never finished"
            ) from error
        except ValueError as error:
            raise DamagedCheckpointError(f"checkpoint {folder}: {_RECORD} is not JSON ({error})") from error
        if not isinstance(record, dict):
            raise DamagedCheckpointError(f"checkpoint {folder}: {_RECORD} holds no object")
        return record

    def _score(self, step: int) -> float | None:
        if self._best_by is None:
            return None
        with contextlib.suppress(DamagedCheckpointError):
            value = self._record(self._folder(step)).get("scores", {}).get(self._best_by)
            return None if value is None else float(value)
        return None

    def _write(self, path: str, data: bytes) -> None:
        if not self._is_local:
            self._fs.pipe_file(path, data)  # object stores show an object only when it is whole
            return
        temporary = f"{path}.{os.getpid()}.tmp"
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _prune(self, newest: int) -> None:
        steps = [step for step in self.steps() if step <= newest]
        kept = {*steps[-self._keep_last :], *self._by_score()[:1]}
        for step in steps:
            if step not in kept:
                self._fs.rm(self._folder(step), recursive=True)


def _tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    engine = checkpoint.engine
    named = {
        **{f"parameters/{name}": value for name, value in engine.parameters.items()},
        **{f"first_moments/{name}": value for name, value in engine.first_moments.items()},
        **{f"second_moments/{name}": value for name, value in engine.second_moments.items()},
        **{f"random_states/{rank}": value for rank, value in enumerate(checkpoint.random_states)},
    }
    return {name: value.contiguous() for name, value in named.items()}


def _checkpoint(record: dict[str, Any], tensors: dict[str, Tensor]) -> Checkpoint:
    def part(kind: str) -> dict[str, Tensor]:
        return {name.removeprefix(f"{kind}/"): value for name, value in tensors.items() if name.startswith(f"{kind}/")}

    random_states = part("random_states")
    return Checkpoint(
        loop=LoopState(
            step=record["step"],
            consumed={int(epoch): tuple(ids) for epoch, ids in record["consumed"].items()},
            num_skipped=record["num_skipped"],
        ),
        engine=EngineState(
            parameters=part("parameters"),
            first_moments=part("first_moments"),
            second_moments=part("second_moments"),
            num_updates=record["num_updates"],
        ),
        random_states=tuple(random_states[str(rank)] for rank in range(len(random_states))),
        scores=record.get("scores", {}),
        config=record["config"],
    )


def restore_random_state(states: Sequence[Tensor], rank: int, world_size: int, seed: int, step: int) -> None:
    """Sets torch's generator: the saved state at the same number of workers, otherwise a new one that depends on the
    seed, the step and the rank."""
    if len(states) == world_size:
        torch.set_rng_state(states[rank])
    else:
        digest = hashlib.blake2b(f"{seed}\0{step}\0{rank}".encode(), digest_size=8).digest()
        torch.manual_seed(int.from_bytes(digest, "little") >> 1)

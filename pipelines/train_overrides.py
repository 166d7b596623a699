"""What a command line says in place of a training config's file. Light: imports no torch, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Score = Literal["PQ", "PQ-seen", "PQ-unseen", "mIoU", "mIoU-seen", "mIoU-unseen", "AP", "AP-seen", "AP-unseen"]
"""Of an evaluation, over all categories or those that were in the training vocabulary or were not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    shards: str | None = None
    """address of the shard set, in place of the config's"""
    output: str | None = None
    """folder of the run, in place of the config's"""
    steps: int | None = None
    """last step, in place of the config's"""
    engine: Literal["deepspeed", "torch"] | None = None
    """in place of the config's"""
    workers: int | None = None
    """number of train workers, in place of the config's; a run that was begun with another number goes on"""
    validation: str | None = None
    """shard set that every checkpoint is evaluated on, in place of the config's"""
    select: Score | None = None
    """the model is the best checkpoint by this score on the validation shards; without it, the last one"""
    random_encoders: bool = False
    """random encoder weights: nothing sensible is learnt, and every output says so"""

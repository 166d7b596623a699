"""What the entry scripts share: the command line, and one clear line instead of a traceback for the user's mistakes."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import tyro

from frozenseg.errors import FrozenSegError
from pipelines.ray_session import Need, RayOptions
from pipelines.storage_root import below_storage

if TYPE_CHECKING:
    from pipelines.segmenter_pool import PoolOptions, SegmenterSource

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class SegmenterArguments:
    """What every job with whole models in actors is told."""

    model: str
    """model folder, or "miniature\""""
    random_encoders: bool = False
    """CLIP and SAM with random weights; the results mean nothing and say so"""
    openseg: bool = False
    """let SAM's masks vote for unseen categories in semantic results"""
    min_actors: int = 1
    max_actors: int = 1
    actor_cpus: float = 1.0
    actor_gpus: float = 0.0
    device: str = "auto"
    dtype: str = "float32"
    ray: RayOptions = field(default_factory=lambda: RayOptions(dashboard=False))

    def source(self, *, untrained: bool = False) -> SegmenterSource:
        """Which model the actors build."""
        from frozenseg.data.files import absolute
        from pipelines.segmenter_pool import SegmenterSource

        return SegmenterSource(
            model=self.model if self.model == "miniature" else absolute(below_storage(self.model)),
            device=self.device,
            dtype=self.dtype,
            random_encoders=self.random_encoders,
            untrained=untrained,
        )

    def pool(self) -> PoolOptions:
        from pipelines.segmenter_pool import PoolOptions

        return PoolOptions(
            min_actors=self.min_actors,
            max_actors=max(self.min_actors, self.max_actors),
            cpus=self.actor_cpus,
            gpus=self.actor_gpus,
        )

    def inference_options(self) -> dict[str, Any]:
        """Those that differ from the model folder's, by name."""
        return {"openseg": True} if self.openseg else {}

    def needs(self) -> list[Need]:
        """What the cluster must have at least."""
        return [Need(name="segmenter", count=self.min_actors, cpus=self.actor_cpus, gpus=self.actor_gpus)]


def run_job(arguments: type[T], run: Callable[[T], None], description: str) -> int:
    """Parses `arguments` (a dataclass) from the command line and runs. Exit code 2 for the user's errors."""
    parsed = tyro.cli(arguments, description=description)
    try:
        run(parsed)
    except FrozenSegError as error:
        sys.stderr.write(f"{one_line(error)}\n")
        return 2
    return 0


def one_line(error: FrozenSegError) -> str:
    """The message. What a worker raised arrives as an exception of Ray's and of our type, whose text is our line with
    Ray's advice below it, or whole tracebacks that end with our line."""
    text = str(getattr(error, "cause", error))
    written = re.findall(r"^frozenseg\.errors\.\w+: (.*)$", text, flags=re.MULTILINE)
    return written[-1] if written else next(iter(text.splitlines()), "")

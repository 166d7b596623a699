"""What the demo may be told, and where it puts things."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """How large, and where to; the defaults are sized for ten minutes on two cores."""

    to: Path = Path("runs/demo")
    """folder of everything the demo makes"""
    train_scenes: int = 400
    """scenes of the miniature world to train on"""
    val_scenes: int = 60
    """held-out scenes to evaluate on"""
    label_images: int = 24
    """pictures to label offline"""
    seed: int = 0
    """another seed makes another world"""
    steps: int | None = None
    """training steps, the config's own when left out"""

    @property
    def world(self) -> Path:
        return self.to / "world"

    @property
    def model(self) -> Path:
        return self.to / "model"

    @property
    def pictures(self) -> Path:
        return self.to / "pictures"

    @property
    def labels(self) -> Path:
        return self.to / "labels"

    @property
    def evaluation(self) -> Path:
        return self.to / "evaluation"

    @property
    def baseline(self) -> Path:
        return self.to / "evaluation-untrained"

    def shards(self, split: str) -> Path:
        """Shard set of `train` or `val`."""
        return self.to / "shards" / split

"""What a simulated cluster really is: how long its stages take, how wide its links are, who sits on which node.

Nothing here comes from the planner, and the planner sees nothing of it; nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The truth that a predictor has to find out by measuring.

    Fields: block_images: images per block; read_seconds, encode_seconds, train_seconds, receive_seconds: of one worker
    per image, on average; coordinate_seconds: per image, of the one process that moves blocks, beside what its calls
    cost anyway; feature_bytes, sample_bytes: of an image; read_noise, encode_noise, train_noise: standard deviation of
    a block's time as a share of it; link_share: of a link's stated bytes/s that an application gets; link_noise:
    likewise of a transfer's time.
    """

    block_images: int = 4
    read_seconds: float = 0.2
    encode_seconds: float = 0.5
    train_seconds: float = 0.1
    receive_seconds: float = 0.005
    coordinate_seconds: float = 0.01
    feature_bytes: int = 2**18
    sample_bytes: int = 50_000
    read_noise: float = 0.3
    encode_noise: float = 0.15
    train_noise: float = 0.05
    link_share: float = 0.96
    link_noise: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedNode:
    """Fields: bytes_per_s: its link states, each way; readers: blocks that it reads at once; encoders, trainers: of
    its pretended GPUs."""

    bytes_per_s: float
    readers: int = 0
    encoders: int = 0
    trainers: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Who runs where in one simulated run.

    Fields: nodes; storage_bytes_per_s: of all nodes together; inline: the trainers encode, in place of a pool;
    cached_from: the block from which on all features are found in the cache, None without one.
    """

    nodes: tuple[SimulatedNode, ...]
    storage_bytes_per_s: float
    inline: bool = False
    cached_from: int | None = None

    @property
    def readers(self) -> list[int]:
        """The node of each reader."""
        return [number for number, node in enumerate(self.nodes) for _ in range(node.readers)]

    @property
    def encoders(self) -> list[int]:
        """The node of each encoder."""
        return [number for number, node in enumerate(self.nodes) for _ in range(node.encoders)]

    @property
    def trainers(self) -> list[int]:
        """The node of each trainer."""
        return [number for number, node in enumerate(self.nodes) for _ in range(node.trainers)]

    @property
    def max_in_flight(self) -> int:
        """Blocks between the start of their reading and the end of their training step: for each worker one under its
        hands, for each encoder one more that waits, for each trainer three (waiting, under way, taken in)."""
        return len(self.readers) + 2 * len(self.encoders) + 4 * len(self.trainers)


class Noise:
    """Random factors around 1, a stream of its own for every worker."""

    def __init__(self, seed: int, *worker: int) -> None:
        self.random = np.random.default_rng([seed, *worker])

    def __call__(self, deviation: float) -> float:
        """A factor above 0 with mean 1 and this standard deviation (lognormal)."""
        if deviation == 0:
            return 1.0
        width = float(np.sqrt(np.log1p(deviation**2)))
        return float(np.exp(self.random.normal(-(width**2) / 2, width)))

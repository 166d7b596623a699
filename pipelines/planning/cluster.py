"""A cluster in numbers, as a TOML file says it."""

from __future__ import annotations

from dataclasses import dataclass

from frozenseg.errors import UserInputError


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeGroup:
    """Nodes of one kind.

    Fields: nodes: how many at the most; cpus, gpus: of each; gbit_per_s: of each node's network; price_per_hour: of
    each node, in whatever currency the answer is wanted.
    """

    nodes: int = 1
    cpus: float = 1.0
    gpus: int = 0
    gbit_per_s: float = 10.0
    price_per_hour: float = 0.0

    def __post_init__(self) -> None:
        if self.nodes < 0 or self.cpus < 0 or self.gpus < 0 or self.price_per_hour < 0:
            raise UserInputError(f"cluster: expected no number below 0 in a node group, found {self}")
        if self.gbit_per_s <= 0:
            raise UserInputError(f"cluster: expected a network above 0 gbit/s, found {self.gbit_per_s:g}")

    @property
    def bytes_per_s(self) -> float:
        """Of all nodes' links together, in one direction."""
        return self.nodes * self.gbit_per_s * 1e9 / 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Fields: trainers: the nodes of the training group; encoders: the nodes of the encoder pool, whose CPUs read and
    augment too; without nodes there, the pool shares the trainers' nodes; head_price_per_hour: of the head node;
    storage_gbit_per_s: what the object store or file server gives all nodes together; storage_price_gb_month: of
    what a cache keeps."""

    trainers: NodeGroup
    encoders: NodeGroup = NodeGroup(nodes=0)
    head_price_per_hour: float = 0.0
    storage_gbit_per_s: float = 10.0
    storage_price_gb_month: float = 0.0

    def __post_init__(self) -> None:
        if self.trainers.nodes < 1:
            raise UserInputError("cluster: expected at least one trainer node")
        if self.storage_gbit_per_s <= 0:
            raise UserInputError(f"cluster: expected a storage above 0 gbit/s, found {self.storage_gbit_per_s:g}")

"""The clusters that the planner is held against: as the planner is told of them, and how they are laid out."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.simulated_world import Layout, SimulatedNode, World
from pipelines.planning import Cluster, NodeGroup, Workload
from pipelines.planning.predict import Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One run. Fields: num_encoders: of the pool, 0 with `inline`; num_steps: of one block a trainer; num_images: of
    the data set, which matters to a cache only: it keeps one view of each."""

    name: str
    cluster: Cluster
    mode: Mode = "stream"
    num_encoders: int = 0
    num_steps: int
    num_images: int = 1_000_000

    def workload(self, block_images: int) -> Workload:
        return Workload(
            num_images=self.num_images,
            num_steps=self.num_steps,
            batch_size=block_images * self.num_trainers,
            num_views=1,
        )

    @property
    def num_trainers(self) -> int:
        """One a GPU; where no node is the encoders' own, they take some of the trainers'."""
        gpus = self.cluster.trainers.nodes * self.cluster.trainers.gpus
        return gpus if self.cluster.encoders.nodes else gpus - self.num_encoders


def layout_of(configuration: Configuration, world: World) -> Layout:
    """Workers fill one node after the other, encoders of shared nodes last; every CPU of a node that is up reads."""
    cluster = configuration.cluster
    trainers, encoders = configuration.num_trainers, configuration.num_encoders
    nodes = []
    for _ in range(cluster.trainers.nodes):
        trained_here = min(cluster.trainers.gpus, trainers)
        encoded_here = 0 if cluster.encoders.nodes else min(cluster.trainers.gpus - trained_here, encoders)
        trainers -= trained_here
        encoders -= encoded_here
        nodes.append(_node(cluster.trainers, trainers=trained_here, encoders=encoded_here))
    while encoders > 0:
        here = min(cluster.encoders.gpus, encoders)
        encoders -= here
        nodes.append(_node(cluster.encoders, trainers=0, encoders=here))
    first_cached = -(-configuration.num_images // world.block_images)
    return Layout(
        nodes=tuple(nodes),
        storage_bytes_per_s=cluster.storage_gbit_per_s * 1e9 / 8,
        inline=configuration.mode == "inline",
        cached_from=first_cached if configuration.mode == "cache" else None,
    )


def _node(group: NodeGroup, *, trainers: int, encoders: int) -> SimulatedNode:
    readers = int(group.cpus)
    return SimulatedNode(bytes_per_s=group.gbit_per_s * 1e9 / 8, readers=readers, trainers=trainers, encoders=encoders)


def _cluster(trainers: NodeGroup, encoders: NodeGroup | None = None, *, storage_gbit_per_s: float = 1.0) -> Cluster:
    return Cluster(trainers=trainers, encoders=encoders or NodeGroup(nodes=0), storage_gbit_per_s=storage_gbit_per_s)


def _nodes(nodes: int, gpus: int, cpus: int = 8, gbit_per_s: float = 1.0) -> NodeGroup:
    return NodeGroup(nodes=nodes, gpus=gpus, cpus=cpus, gbit_per_s=gbit_per_s)


CONFIGURATIONS = (
    Configuration(name="1 encoder", cluster=_cluster(_nodes(1, 1), _nodes(1, 1)), num_encoders=1, num_steps=20),
    Configuration(name="4 encoders", cluster=_cluster(_nodes(1, 2), _nodes(4, 1)), num_encoders=4, num_steps=20),
    Configuration(
        name="8 encoders, 1 trainer", cluster=_cluster(_nodes(1, 1), _nodes(8, 1)), num_encoders=8, num_steps=45
    ),
    Configuration(name="16 encoders", cluster=_cluster(_nodes(1, 4), _nodes(2, 8)), num_encoders=16, num_steps=36),
    Configuration(
        name="32 encoders, 4 trainers", cluster=_cluster(_nodes(1, 4), _nodes(4, 8)), num_encoders=32, num_steps=40
    ),
    Configuration(
        name="32 encoders, narrow link into the trainers",
        cluster=_cluster(_nodes(1, 8, gbit_per_s=0.09), _nodes(4, 8)),
        num_encoders=32,
        num_steps=24,
    ),
    Configuration(
        name="24 encoders, narrow links out",
        cluster=_cluster(_nodes(2, 4), _nodes(3, 8, gbit_per_s=0.022)),
        num_encoders=24,
        num_steps=20,
    ),
    Configuration(
        name="10 encoders on 2 of 4 nodes, narrow links out",
        cluster=_cluster(_nodes(1, 4), _nodes(4, 8, gbit_per_s=0.022)),
        num_encoders=10,
        num_steps=16,
    ),
    Configuration(
        name="16 encoders, few CPUs",
        cluster=_cluster(_nodes(1, 4, cpus=2), _nodes(2, 8, cpus=1)),
        num_encoders=16,
        num_steps=24,
    ),
    Configuration(
        name="16 encoders, slow storage",
        cluster=_cluster(_nodes(1, 4), _nodes(2, 8), storage_gbit_per_s=0.009),
        num_encoders=16,
        num_steps=28,
    ),
    Configuration(name="40 encoders", cluster=_cluster(_nodes(3, 4), _nodes(5, 8)), num_encoders=40, num_steps=28),
    Configuration(name="48 encoders", cluster=_cluster(_nodes(4, 4), _nodes(6, 8)), num_encoders=48, num_steps=24),
    Configuration(name="64 encoders", cluster=_cluster(_nodes(4, 4), _nodes(8, 8)), num_encoders=64, num_steps=30),
    Configuration(
        name="64 encoders, 6 trainers", cluster=_cluster(_nodes(3, 2), _nodes(8, 8)), num_encoders=64, num_steps=40
    ),
    Configuration(name="inline, 8 trainers", cluster=_cluster(_nodes(2, 4)), mode="inline", num_steps=9),
    Configuration(
        name="cache, 4 encoders",
        cluster=_cluster(_nodes(1, 2), _nodes(4, 1)),
        mode="cache",
        num_encoders=4,
        num_steps=40,
        num_images=96,
    ),
    Configuration(
        name="4 encoders beside 2 trainers", cluster=_cluster(_nodes(1, 6, cpus=16)), num_encoders=4, num_steps=20
    ),
)
"""Each stage is the slowest of some, and some are near a tie."""

"""What a cluster will take for a training run: images/s, hours, bytes and cost, from measured rates."""

from pipelines.planning.cluster import Cluster, NodeGroup
from pipelines.planning.predict import Plan, Workload, best_plan, predict
from pipelines.planning.rates import StageRates

__all__ = ["Cluster", "NodeGroup", "Plan", "StageRates", "Workload", "best_plan", "predict"]

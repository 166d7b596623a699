"""Run by test_train_job.py in a process of its own: a run on a cluster of two nodes, one of which dies.

    python two_nodes_script.py CONFIG OUTPUT

The config's worker group is elastic, and each node has room for one worker of 3 CPUs, the first one for the encoders
and the readers beside it: the run goes on with one worker.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from ray.cluster_utils import Cluster

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from pipelines import ray_session, train
from pipelines.ray_session import RayOptions
from pipelines.train_file import load_train_config
from tests.campaigns.train_kills import wait_for_steps

NODE = {"num_gpus": 0, "object_store_memory": 150 * 2**20, "include_dashboard": False}


def main(config_path: Path, output: Path) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 5, "resources": {"trainer": 1}})
    other = cluster.add_node(**NODE, num_cpus=3, resources={"trainer": 1})
    cluster.wait_for_nodes()
    is_over = threading.Event()

    def kill() -> None:
        if wait_for_steps(output / "metrics.jsonl", 0, 3, is_over.is_set):
            cluster.remove_node(other, allow_graceful=False)
            print("node killed", flush=True)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        config = load_train_config(config_path)
        with ray_session.session(train.needs(config), RayOptions(address=cluster.address)):
            train.train_run(train.prepare(config))
    finally:
        is_over.set()
        killer.join()
        cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""Ray's own provider of nodes on this machine, for trying autoscaling out; the head imports it by this file's name."""

from __future__ import annotations

from ray._private import ray_constants
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider


class OnDemandNodes(FakeMultiNodeProvider):
    """Every node unpacks the job's working directory into a folder of its own, as nodes on machines of their own do.

    Ray puts it anew whenever a node first needs it: in one folder for all, a node that comes late would take the
    directory away below the processes of those that are there, which then fail where they ask for it.
    """

    def _next_hex_node_id(self) -> str:
        node_id = str(super()._next_hex_node_id())
        # There is no setting for it; the node's parameters, which are made next, take this name.
        ray_constants.DEFAULT_RUNTIME_ENV_DIR_NAME = f"runtime_resources_{node_id[-5:]}"
        return node_id

"""What moving a block of the feature stream costs the one process that schedules it.

    python -m benchmarks.stream_coordination [--blocks 400] [--encoders 4]

`pipelines.planning.coordination`, as ray_jobs/plan.py measures it: CPU seconds per block of the scheduling process
(ray::SplitCoordinator), which is what `coordinate_seconds` of the planner's rates means, times the images of a block;
and the wall time per block, which other work on the machine and the stages' own processes lengthen.
"""

from __future__ import annotations

import argparse

from pipelines import ray_session
from pipelines.planning import coordination
from pipelines.ray_session import RayOptions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=400)
    parser.add_argument("--encoders", type=int, default=4)
    options = parser.parse_args()
    with ray_session.session(options=RayOptions(num_cpus=4, num_gpus=0, dashboard=False, object_store_mb=500)):
        found = coordination.measure(options.blocks, options.encoders)
    print(f"{1000 * found.cpu:.1f} ms of the scheduling process's CPU a block")
    print(f"{1000 * found.wall:.1f} ms a block by the clock")


if __name__ == "__main__":
    main()

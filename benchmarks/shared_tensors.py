"""An answer full of tensors from one actor to another through Ray's memory, as Serve's parts hand on features.

    OMP_NUM_THREADS=1 python -m benchmarks.shared_tensors [--megabytes 1.3 96] [--rounds 20]

The baseline lets Ray pickle the tensors as torch does; ours registers `serve.travel.share_tensors` first, as every part
of the server does. Both in one session, in turns, the medians of one answer's way: asked for, made known, taken by the
other actor, which looks at one value of each tensor.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from pipelines import ray_session
from pipelines.ray_session import RayOptions
from serve.travel import share_tensors

NUM_TENSORS = 6
"""As many as `EncoderFeatures` has."""


class Sender:
    def __init__(self, shares: bool, num_bytes: int) -> None:
        if shares:
            share_tensors()
        self.tensors = [torch.rand(1, num_bytes // NUM_TENSORS // 4, 1, 1) for _ in range(NUM_TENSORS)]

    def answer(self) -> list[torch.Tensor]:
        return self.tensors


class Receiver:
    def take(self, tensors: list[torch.Tensor]) -> float:
        return sum(float(tensor[0, 0]) for tensor in tensors)


def milliseconds(sender: Any, receiver: Any) -> float:
    import ray

    started = time.perf_counter()
    ray.get(receiver.take.remote(sender.answer.remote()))
    return 1000 * (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, nargs="*", default=[1.3, 96.0])
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    import ray

    with ray_session.session(options=RayOptions(num_cpus=3, num_gpus=0, dashboard=False, object_store_mb=1500)):
        receiver: Any = ray.remote(Receiver).remote()
        for megabytes in options.megabytes:
            size = int(megabytes * 1e6)
            plain, ours = (ray.remote(Sender).remote(shares, size) for shares in (False, True))
            found: dict[Any, list[float]] = {plain: [], ours: []}
            for number in range(options.rounds + 3):
                for sender in found:
                    spent = milliseconds(sender, receiver)
                    if number >= 3:  # actors start, and both see the pages of Ray's memory
                        found[sender].append(spent)
            before, after = (statistics.median(found[sender]) for sender in (plain, ours))
            print(f"{megabytes:g} MB: pickled by torch {before:.1f} ms, shared {after:.1f} ms, {before / after:.1f}x")
            ray.kill(plain)
            ray.kill(ours)


if __name__ == "__main__":
    main()

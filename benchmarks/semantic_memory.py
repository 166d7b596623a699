"""Peak memory of semantic labels against the dense category x pixel tensor, with the same labels.

    python -m benchmarks.semantic_memory [--categories 847] [--size 1024 2048] [--dense]

The dense tensor alone is categories x pixels x 4 bytes (7.1 GB at the full size), so labels are compared on a cut (the
same queries and categories, a quarter of each side) unless --dense asks for the whole.
Each side runs in a process of its own; memory is the growth of its peak resident size over what lies there before (on
Linux; elsewhere it is the growth of the highest size so far, which may be less). Times are CPU times.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.baselines.semantic import semantic_dense
from frozenseg.inference.geometry import ImageGeometry
from frozenseg.inference.semantic import query_votes, semantic

QUERIES = 250


def _run(kind: str, categories: int, size: tuple[int, int], sender: Any) -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    scores = (4 * torch.randn(QUERIES, categories + 1, generator=generator)).log_softmax(-1)
    logits = 4 * torch.randn(QUERIES, size[0] // 4, size[1] // 4, generator=generator)
    warm = ImageGeometry.whole((64, 64))
    semantic([query_votes(scores, logits[:, :16, :16], warm)])
    before = _resident("VmRSS", forget_peak=True)
    start = time.process_time()
    if kind == "dense":
        labels = semantic_dense(scores, logits, size, size, size)
    else:
        labels = semantic([query_votes(scores, logits, ImageGeometry.whole(size))])
    seconds = time.process_time() - start
    peak = (_resident("VmHWM") - before) * 1024
    sender.send((labels.numpy(), peak, seconds))


def _resident(field: str, *, forget_peak: bool = False) -> int:
    """KiB: `VmRSS` now, `VmHWM` at the most."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if forget_peak:
        Path("/proc/self/clear_refs").write_text("5")
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(field))


def _measure(kind: str, categories: int, size: tuple[int, int]) -> tuple[torch.Tensor, float, float]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(kind, categories, size, sender))
    process.start()
    labels, peak, seconds = receiver.recv()
    process.join()
    return torch.from_numpy(labels), peak, seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--categories", type=int, default=847)
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048))
    parser.add_argument("--dense", action="store_true", help="run the dense form at the full size as well")
    arguments = parser.parse_args()
    size = (arguments.size[0], arguments.size[1])
    dense_bytes = 4 * arguments.categories * size[0] * size[1]
    _, peak, seconds = _measure("ours", arguments.categories, size)
    print(
        f"{arguments.categories} categories, {size}: peak {peak / 2**20:.0f} MiB, dense tensor "
        f"{dense_bytes / 2**20:.0f} MiB, ratio {dense_bytes / peak:.1f}x (CPU {seconds:.1f} s)"
    )
    compared = size if arguments.dense else (size[0] // 4, size[1] // 4)
    expected, dense_peak, dense_seconds = _measure("dense", arguments.categories, compared)
    found, _, our_seconds = _measure("ours", arguments.categories, compared)
    same = torch.equal(expected, found)
    print(
        f"labels at {compared}: identical {same} ({int((expected != found).sum())} of {expected.numel()} differ); "
        f"dense peak {dense_peak / 2**20:.0f} MiB, CPU {dense_seconds:.1f} s against {our_seconds:.1f} s"
    )
    if not same or peak * 8 > dense_bytes:
        raise SystemExit("target missed: same labels at no more than an eighth of the dense tensor's memory")


if __name__ == "__main__":
    main()

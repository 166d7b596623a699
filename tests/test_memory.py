"""What the C library does with freed memory, seen by page faults: each is a page that the kernel had to clear."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys, threading
import torch
from frozenseg.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(40):
        torch.ones(16 << 20)  # 64 MiB
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

keep_freed_memory(torch.device(sys.argv[1]))
thread = threading.Thread(target=faults)
thread.start()
thread.join()
"""


def page_faults(device: str) -> int:
    """Of forty blocks, each freed before the next, in a thread of a process of its own."""
    command = [sys.executable, "-c", SCRIPT, device]
    return int(subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has other rules")
def test_memory_is_used_again_on_the_cpu_and_left_alone_elsewhere() -> None:
    assert page_faults("cpu") < page_faults("cuda") / 4

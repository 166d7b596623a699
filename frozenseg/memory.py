"""What this process's C library does with memory that PyTorch frees: keep it for the next pass, or hand it back."""

from __future__ import annotations

import ctypes

import torch

# The parameters' numbers in glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8
_MOST = 2**31 - 1


def keep_freed_memory(device: torch.device) -> None:
    """Makes repeated forward passes, or batches, on the CPU reuse their memory.

    Nothing happens for another device or C library.

    glibc maps each block of more than 32 MB anew and returns it when it is freed, and the kernel clears all its pages
    each time: a batch of eight small pictures cost more than eight batches of one (benchmarks/freed_memory.py).
    Afterwards the process stays as large as it ever was. One arena, because passes run in threads and other arenas hold
    no block of that size. Where threads ran before the call, as in Ray's workers, they have other arenas already, and
    the environment must say MALLOC_ARENA_MAX=1 from the process's start.
    """
    library = ctypes.CDLL(None)
    if device.type == "cpu" and hasattr(library, "mallopt"):
        library.mallopt(_M_ARENA_MAX, 1)
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, _MOST)


def return_free_memory() -> None:
    """To the system. glibc keeps what lies below the last block in use: with a large CLIP, a gigabyte and a half."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)

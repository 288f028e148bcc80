"""Where the memory of CPU tensors comes from, and what becomes of it when they give it back."""

from __future__ import annotations

import ctypes
import functools
import os
import platform

import torch

from segcore.ops import extension

KEPT = 1 << 30      # bytes of freed memory that a process keeps between pictures
ALL = 1 << 62       # bytes: more than there is
LARGEST = 1 << 28   # bytes; what is larger and no tensor's goes back to the system at once

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3   # glibc's malloc.h
_OWN_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


@functools.cache
def keep_freed_memory(most: int = KEPT) -> bool:
    """Let memory that tensors give back serve the next ones, for the rest of the process.

    By default glibc hands large blocks to the system as soon as they are free. The next layer's, or the next picture's,
    are then new pages, which the system maps and clears one by one: an eighth of the time of a 640 x 640 picture, a
    third of a training step's. And what it does keep it cannot give to the next request of the same size. So with the
    compiled operators, on Linux, tensors of 256 kB and more get their memory from a range of their own
    (`csrc/arena_cpu.cpp`), and glibc is told to keep what else is freed.

    Args:
        most: bytes of freed tensors that stay with the process. `ALL` suits training: each step takes the same again.

    Returns:
        Whether it was set: not without glibc, nor where the environment sets malloc's thresholds itself or brings
        another malloc (`LD_PRELOAD`).
    """
    if platform.libc_ver()[0] != "glibc" or _is_chosen():
        return False
    if extension.has_cpu():
        torch.ops.segcore_native.use_arena(most)
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, LARGEST) and mallopt(_TRIM_THRESHOLD, min(most, KEPT)))


def _is_chosen() -> bool:
    """Whether the environment has its own idea of memory."""
    return any(name in os.environ for name in _OWN_SETTINGS) or "malloc" in os.environ.get("LD_PRELOAD", "")

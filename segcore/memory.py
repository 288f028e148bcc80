"""What the C library does with memory that tensors give back."""

from __future__ import annotations

import ctypes
import functools
import os
import platform

KEPT = 1 << 30      # bytes of freed memory that the process keeps
LARGEST = 1 << 28   # bytes; a larger tensor's memory goes back at once

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3   # glibc's malloc.h
_OWN_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


@functools.cache
def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for the next tensor, for the rest of the process.

    By default it hands tensors' memory back to the system as soon as they are gone. The next layer's, or the next
    picture's, is then new pages, which the system maps and clears one by one: an eighth of the time of a 640 x 640
    picture, a third of a training step's. At its peak the process needs a few percent more; in between it holds up to
    `KEPT` bytes more.

    Returns:
        Whether it was set: not without glibc, nor where the environment sets malloc's thresholds itself.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _OWN_SETTINGS):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, LARGEST) and mallopt(_TRIM_THRESHOLD, KEPT))

"""How many cores there are for this process."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Those that it may use, where the system tells (Linux), else all of the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

"""Which operators would make the process wait for a GPU; seen on a CPU too."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Their output's shape or Python value depends on the data: on a GPU the process would wait for it.
SYNCHRONISING = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "is_nonzero", "equal.default")


class WaitRecorder(TorchDispatchMode):
    """Names of the synchronising operators that ran."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        by_mask = "index" in name and any(
            getattr(i, "dtype", None) == torch.bool for a in args if isinstance(a, (list, tuple)) for i in a
        )
        if by_mask or any(word in name for word in SYNCHRONISING):
            self.found.append(name)
        return function(*args, **(kwargs or {}))

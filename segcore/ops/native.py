"""Whether a kernel that is compiled, for the CPU, for float32 and for inference may serve a call."""

from __future__ import annotations

import torch
from torch import Tensor

from segcore.ops.backend import choose_backend

__all__ = ["has_gradients", "suits_native"]


def has_gradients(*tensors: Tensor | None) -> bool:
    """Whether anything made of these tensors has gradients."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def suits_native(*tensors: Tensor | None) -> bool:
    """Whether a kernel without gradients can compute on these (None: not given), and is built and chosen."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.is_autocast_enabled("cpu"):
        return False
    given = [x for x in tensors if x is not None]
    if has_gradients(*given) or not all(x.device.type == "cpu" and x.dtype == torch.float32 for x in given):
        return False
    return choose_backend("cpu") == "cpu"

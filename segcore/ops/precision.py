"""Products in bfloat16, everything else in float32.

On a processor with AVX-512 BF16 or AMX a linear layer or a convolution takes half of the time in bfloat16; what
lies between them does not, and is where digits matter: norms, softmax, residual sums, coordinates. So inputs and
weights are rounded for the product alone, which is summed in float32 and returned as float32.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_PRODUCTS = (F.linear, torch.conv2d)
_SMALLEST = 2**23   # multiply-adds below which rounding the operands costs more than it saves


def bfloat16_is_fast() -> bool:
    """Whether this processor has instructions for bfloat16."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


_ACTIVE: list[Bfloat16Products] = []


def is_rounded(x: Tensor, weight: Tensor) -> bool:
    """Whether the product of these two is made in bfloat16 here and now."""
    return bool(_ACTIVE) and _ACTIVE[-1].rounds(x, weight)


class Bfloat16Products(TorchFunctionMode):
    """Inside the block, large linear layers and 2-D convolutions of float32 multiply in bfloat16.

    >>> with Bfloat16Products(keep=[model.task_mlp]):
    ...     model(images)
    """

    def __init__(self, keep: Iterable[nn.Module] = ()) -> None:
        """keep: modules whose parameters are used as they are."""
        super().__init__()
        self._kept = {parameter.data_ptr() for module in keep for parameter in module.parameters()}

    def __enter__(self) -> Bfloat16Products:
        _ACTIVE.append(self)
        return super().__enter__()

    def __exit__(self, *error) -> None:
        super().__exit__(*error)
        _ACTIVE.pop()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function not in _PRODUCTS or len(args) < 2 or not self.rounds(*args[:2]):
            return function(*args, **kwargs)
        return function(*map(_rounded, args), **{key: _rounded(value) for key, value in kwargs.items()}).float()

    def rounds(self, x: Tensor, weight: Tensor) -> bool:
        """Whether the product of (..., K) or (B, C, H, W) with a weight is made in bfloat16."""
        if x.dtype != torch.float32 or weight.dtype != torch.float32 or weight.data_ptr() in self._kept:
            return False
        # For a convolution of stride 1; a larger stride only makes the estimate generous.
        places = x.numel() // x.shape[-1] if weight.dim() == 2 else x.shape[0] * x.shape[2] * x.shape[3]
        return places * weight.numel() >= _SMALLEST


def _rounded(value: object) -> object:
    return value.bfloat16() if isinstance(value, Tensor) else value

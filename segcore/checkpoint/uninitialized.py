"""Building a model whose every parameter will be loaded."""

from __future__ import annotations

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


class Uninitialized(TorchFunctionMode):
    """Inside the block, constructors leave parameters as they are allocated: no random numbers are drawn, no
    memory is touched. Buffers get their values. Only for a model into which a load puts all parameters.

    >>> with Uninitialized():
    ...     model = build_model(cfg)
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        written = args[0] if args else kwargs.get("tensor")  # by name: so `nn.init` hands itself over
        if not isinstance(written, nn.Parameter):
            return function(*args, **kwargs)
        if _writes(getattr(function, "__name__", "")):
            return written
        result = function(*args, **kwargs)
        # `weight.data.normal_()` is the old way to initialise: that is still the parameter.
        return nn.Parameter(result, requires_grad=False) if function == torch.Tensor.data.__get__ else result


def _writes(name: str) -> bool:
    # PyTorch's names of what works in place; requires_grad_ and the like do not write.
    return name.endswith("_") and not name.endswith("__") and name != "requires_grad_"

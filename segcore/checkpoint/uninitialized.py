"""Building a model whose every parameter will be loaded."""

from __future__ import annotations

from torch import nn
from torch.overrides import TorchFunctionMode


class Uninitialized(TorchFunctionMode):
    """Inside the block, constructors leave parameters as they are allocated: no random numbers are drawn, no
    memory is touched. Buffers get their values. Only for a model into which a load puts all parameters.

    >>> with Uninitialized():
    ...     model = build_model(cfg)
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        # PyTorch's names of what works in place; requires_grad_ and the like do not write.
        writes = name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
        if writes and args and isinstance(args[0], nn.Parameter):
            return args[0]
        return function(*args, **(kwargs or {}))

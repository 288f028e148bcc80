"""Linear layers, and the layout of maps for convolutions, that use the whole width of the processor.

PyTorch multiplies fp32 matrices with MKL, which runs its 256-bit code on processors that are not Intel's.
oneDNN, also part of PyTorch, looks at what the processor can do: on an AMD one with AVX-512 its products take
less than half of the time (450 against 200 GFLOP/s on two cores of a Zen 5). Where gradients are wanted, a linear layer
is written as a 1x1 convolution over its tokens, which goes to oneDNN; else oneDNN's own linear layer is called. The
result differs from `F.linear` by rounding alone.

It is a choice of the caller, see `segcore.ops.fastest`.

Shapes:  ... any leading dimensions, K input features, N output features.
"""

from __future__ import annotations

import platform
from contextlib import AbstractContextManager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcore.ops.native import has_gradients
from segcore.ops.precision import is_rounded
from segcore.ops.switch import held

# Multiply-adds below which the set-up of a convolution costs more than it saves.
_SMALLEST = 2**23


def _vendor() -> str:
    """The processor's maker as CPUID names it; "" where it cannot be read."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return platform.processor()  # Windows: "AMD64 Family 25 ..., AuthenticAMD"
    with cpuinfo.open() as lines:
        return next((line.split(":")[1].strip() for line in lines if line.startswith("vendor_id")), "")


def _onednn_is_faster() -> bool:
    return (
        torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and "AuthenticAMD" in _vendor()
    )


ONEDNN_IS_FASTER = _onednn_is_faster()
# oneDNN's own linear layer, with bias and ReLU inside, without gradients: what torch.compile calls. Not on every build.
_HAS_POINTWISE = hasattr(torch.ops.mkldnn, "_linear_pointwise")
_USE = [False]


def use_onednn(use: bool) -> AbstractContextManager[None]:
    """Inside the block, `linear` calls oneDNN (True) or F.linear (False), whatever the processor."""
    return held(_USE, use)


def uses_onednn() -> bool:
    """Whether `use_onednn` chose oneDNN here."""
    return _USE[0]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, relu: bool = False) -> Tensor:
    """x @ weight.T + bias, with gradients, by the library that `use_onednn` chose; with `relu`, its positive part.

    Args:
        x: (..., K).
        weight: (N, K).
        bias: (N,) or None.

    Returns:
        (..., N).
    """
    if not _USE[0] or torch.compiler.is_compiling() or not _suits(x, weight) or is_rounded(x, weight):
        out = F.linear(x, weight, bias)
    elif _HAS_POINTWISE and not has_gradients(x, weight, bias):
        last = "relu" if relu else "none"
        return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, last, [], "")
    else:
        # (1, K, tokens, 1) over memory that is (tokens, K): channels last, and so is the output.
        tokens = x.contiguous().view(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
        out = F.conv2d(tokens, weight[:, :, None, None])
        if bias is not None:  # apart: oneDNN would sum its gradient one by one, and lose digits over many tokens
            out.add_(bias[:, None, None])
        out = out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], len(weight))
    return F.relu(out) if relu else out


def row_products(x: Tensor, y: Tensor) -> Tensor:
    """Every product of a row of x with a row of y, x @ y.mT, by the library that `use_onednn` chose.

    Args:
        x: (B, Q, C).
        y: (B, S, C); oneDNN serves where it is contiguous and nothing has gradients.

    Returns:
        (B, Q, S).
    """
    if not (_USE[0] and _HAS_POINTWISE and y.is_contiguous()) or has_gradients(x, y):
        return x @ y.mT
    if x.shape[0] == 1:
        return linear(x[0], y[0])[None]
    return torch.stack([linear(a, b) for a, b in zip(x, y)])


def in_fast_layout(x: Tensor) -> Tensor:
    """A map (B, C, H, W) as the library that `use_onednn` chose convolves it fastest: channels last for oneDNN.

    Everything after it then stays channels last, and 1x1 convolutions are products over tokens that lie there already.
    """
    if not _USE[0] or torch.compiler.is_compiling() or x.device.type != "cpu":
        return x
    x = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    # One image may still have strides that PyTorch does not take for channels last, until its axes are split anew.
    return x.flatten(0, 2).unflatten(0, x.shape[:3]).permute(0, 3, 1, 2)


def _suits(x: Tensor, weight: Tensor) -> bool:
    # bf16 and fp16 (autocast too) use oneDNN in F.linear already.
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * len(weight) >= _SMALLEST
        and not torch.is_autocast_enabled("cpu")
        and not torch.jit.is_tracing()
    )


class Linear(nn.Linear):
    """`nn.Linear` by `linear`: the same parameters, the same state."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def speed_up_linears(model: nn.Module) -> None:
    """Turn every plain `nn.Linear` of `model` into `Linear`, in place; subclasses stay as they are."""
    for module in model.modules():
        if type(module) is nn.Linear:
            # Adds behaviour but no state: it can change class where it sits.
            module.__class__ = Linear

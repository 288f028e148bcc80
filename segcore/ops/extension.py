"""Finds the compiled extension `segcore._C` and says what it offers.

The extension is optional. `pip install .` builds it where a C++ compiler is; with SEGCORE_JIT=1 it is built
at first use instead (torch.utils.cpp_extension.load, kept in torch's extension cache).
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from pathlib import Path
from types import ModuleType

from segcore.ops import build

__all__ = [
    "BUILD_COMMAND",
    "CUDA_BUILD_COMMAND",
    "JIT_VARIABLE",
    "has_cpu",
    "has_cuda",
    "has_triton",
    "instruction_set",
    "status",
    "triton_interprets",
]

JIT_VARIABLE = "SEGCORE_JIT"
BUILD_COMMAND = f"python setup.py build_ext --inplace (needs a C++17 compiler), or set {JIT_VARIABLE}=1"
CUDA_BUILD_COMMAND = "FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST=9.0 python setup.py build_ext --inplace"


def _load_built() -> tuple[ModuleType | None, str]:
    """The extension that was built with the package, and one sentence about it."""
    spec = importlib.util.find_spec("segcore._C")
    if spec is None or spec.origin is None:
        return None, "segcore._C is not built"
    # looked up in the file: once loaded, its operators stay registered and a new build could not replace them
    if build.source_stamp().encode() not in Path(spec.origin).read_bytes():
        return None, "segcore._C was built from other sources than these"
    try:
        return importlib.import_module("segcore._C"), "segcore._C is loaded"
    except ImportError as error:  # its symbols are gone
        return None, f"segcore._C was built for another PyTorch and does not load ({error})"


def _load() -> tuple[ModuleType | None, str]:
    """The extension and one sentence about it."""
    module, status = _load_built()
    if module is None and os.environ.get(JIT_VARIABLE, "0") == "1":
        return build.load_just_in_time(), f"segcore._C was built just in time ({JIT_VARIABLE}=1)"
    if module is None and status != "segcore._C is not built":
        warnings.warn(f"{status}; plain PyTorch serves instead. Rebuild it: {BUILD_COMMAND}", RuntimeWarning, 2)
    return module, status


_MODULE, _STATUS = _load()


def has_cpu() -> bool:
    """Whether the compiled CPU kernels are loaded."""
    return _MODULE is not None


def has_cuda() -> bool:
    """Whether the compiled CUDA kernels are loaded."""
    return _MODULE is not None and bool(_MODULE.with_cuda)


def instruction_set() -> str:
    """The instruction set that the CPU kernels use here; empty without the extension."""
    return "" if _MODULE is None else _MODULE.instruction_set


def has_triton() -> bool:
    """Whether Triton can be imported (it is not imported here: that takes a second)."""
    return importlib.util.find_spec("triton") is not None


def triton_interprets() -> bool:
    """Whether Triton was told to interpret its kernels on the CPU (for tests)."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def status() -> str:
    """One sentence: whether the extension is loaded, and if not, why."""
    return _STATUS

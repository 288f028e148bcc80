"""Which implementation serves an operator, and how to ask for another.

The tensors' device decides; `use_backend` or the environment variable SEGCORE_OPS_BACKEND overrides. A
backend that was asked for and cannot run raises: it is never replaced in silence.

Backends:
    reference  plain PyTorch, written to be read; any device; the ground truth of the tests.
    torch      plain PyTorch, written to be fast: what a machine without a compiler gets.
    cpu        compiled C++ (segcore._C), AVX2 / AVX-512 / NEON.
    cuda       compiled CUDA C++ (segcore._C built with nvcc).
    triton     Triton kernels, for GPUs without a compiler.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from segcore.ops import extension
from segcore.ops.switch import held

__all__ = [
    "BACKENDS",
    "ENVIRONMENT_VARIABLE",
    "asked_backend",
    "available_backends",
    "choose_backend",
    "use_backend",
]

BACKENDS = ("reference", "torch", "cpu", "cuda", "triton")
ENVIRONMENT_VARIABLE = "SEGCORE_OPS_BACKEND"

# A compiled model follows `use_backend`. It is process-wide, as the environment variable is.
_OVERRIDE: list[str | None] = [None]


def _check_name(name: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"unknown operator backend {name!r}; choose one of {', '.join(BACKENDS)}")
    return name


def _from_environment() -> str | None:
    name = os.environ.get(ENVIRONMENT_VARIABLE, "")
    return _check_name(name) if name else None


_OVERRIDE[0] = _from_environment()


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run the operators inside the block on backend `name`.

    Raises:
        ValueError: if the name is unknown.
        RuntimeError: if that backend is not available here; the message says how to get it.
    """
    _check_name(name)
    reason = unavailable_reason(name)
    if reason:
        raise RuntimeError(f"operator backend {name!r} is not available: {reason}")
    with held(_OVERRIDE, name):
        yield


def unavailable_reason(name: str) -> str:
    """Why backend `name` cannot run here, with the remedy; empty if it can."""
    if name in ("reference", "torch"):
        return ""
    if name == "cpu":
        return "" if extension.has_cpu() else f"{extension.status()}. Build it: {extension.BUILD_COMMAND}"
    if name == "cuda":
        if not extension.has_cuda():
            return f"{extension.status()}, without CUDA kernels. Build them: {extension.CUDA_BUILD_COMMAND}"
        return "" if torch.cuda.is_available() else "torch finds no CUDA device"
    if not extension.has_triton():
        return "the package `triton` is not installed. Install it: pip install triton"
    if torch.cuda.is_available() or extension.triton_interprets():
        return ""
    return "torch finds no CUDA device (TRITON_INTERPRET=1 runs the kernels on a CPU, slowly, for tests)"


def available_backends() -> dict[str, str]:
    """Every backend's name with the reason why it is missing (empty when it can run)."""
    return {name: unavailable_reason(name) for name in BACKENDS}


def _serves(name: str, device_type: str) -> bool:
    if name in ("reference", "torch"):
        return True
    if name == "triton":
        return device_type == "cuda" or (device_type == "cpu" and extension.triton_interprets())
    return name == device_type


def asked_backend() -> str | None:
    """The backend that `use_backend` or the environment asks for; None if the device decides."""
    return _OVERRIDE[0]


def choose_backend(device_type: str, missing: tuple[str, ...] = ()) -> str:
    """The backend for tensors on `device_type`.

    Args:
        device_type: "cpu", "cuda", ...
        missing: backends that do not implement the operator at hand.

    Raises:
        RuntimeError: if the backend that was asked for cannot serve these tensors.
    """
    asked = _OVERRIDE[0]
    if asked is not None:
        if asked in missing:
            raise RuntimeError(f"operator backend {asked!r} does not implement this operator")
        if not _serves(asked, device_type):
            raise RuntimeError(
                f"operator backend {asked!r} was asked for, but the tensors are on {device_type!r}; "
                f"move them or choose another backend (use_backend, {ENVIRONMENT_VARIABLE})"
            )
        reason = unavailable_reason(asked)
        if reason:
            raise RuntimeError(f"operator backend {asked!r} is not available: {reason}")
        return asked
    if device_type == "cpu":
        return "cpu" if extension.has_cpu() and "cpu" not in missing else "torch"
    if device_type == "cuda":
        if extension.has_cuda() and "cuda" not in missing:
            return "cuda"
        return "triton" if extension.has_triton() and "triton" not in missing else "torch"
    return "reference"

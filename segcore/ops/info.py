"""Prints which operator backends are available here, which are chosen and why: python -m segcore.ops.info"""

from __future__ import annotations

import sys

import torch

from segcore.ops import backend, extension

__all__ = ["describe"]


def _chosen(device: str) -> str:
    try:
        return backend.choose_backend(device)
    except RuntimeError as error:
        return f"none: {error}"


def describe() -> str:
    """A few lines: versions, the extension, each backend, the choice for each device."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
    isa = extension.instruction_set()
    loaded = f"; CPU kernels use {isa}" if isa else f". Build it: {extension.BUILD_COMMAND}"
    lines = [
        f"torch {torch.__version__} (CUDA {torch.version.cuda or 'none'}), Python {sys.version.split()[0]}, "
        f"{torch.get_num_threads()} threads, {gpu}",
        f"extension: {extension.status()}{loaded}",
        "",
        "backend    available",
    ]
    for name, reason in backend.available_backends().items():
        lines.append(f"{name:10s} {'yes' if not reason else 'no: ' + reason}")
    asked = backend.asked_backend()
    why = f"asked for by use_backend or {backend.ENVIRONMENT_VARIABLE}" if asked else "the fastest available"
    lines += ["", f"chosen ({why}):"]
    lines += [f"  tensors on {device}: {_chosen(device)}" for device in ("cpu", "cuda")]
    lines += ["", f"override: with segcore.ops.use_backend(name), or {backend.ENVIRONMENT_VARIABLE}=name"]
    return "\n".join(lines)


if __name__ == "__main__":
    print(describe())

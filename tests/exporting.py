"""What tests of exported files need."""

from __future__ import annotations

import pytest
import torch

from segcore.export import OLDEST_TORCH


def require_torch() -> None:
    """Skip with a torch that cannot export."""
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST_TORCH:
        pytest.skip(f"torch {torch.__version__} is older than {OLDEST_TORCH}")


def require_onnx() -> None:
    """Skip without what writes and runs ONNX files."""
    require_torch()
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason=f"{module} is not installed: pip install .[export]")

"""Unpickling of weight files that cannot run code.

A pickle may name any importable function and call it.  Detectron2's model zoo
and the official ImageNet backbones are plain pickles of numpy arrays or torch
tensors, and old `.pth` files carry an `argparse.Namespace` or numpy scalars
beside the tensors.  Only what rebuilds those is let through.
"""

from __future__ import annotations

import argparse
import collections
import io
import pickle
from typing import Any, BinaryIO

import numpy as np
import torch
import yacs.config
from detectron2.config import CfgNode

_ALLOWED = {
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),  # numpy scalars and arrays of protocol <= 2
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.core.numeric", "_frombuffer"),
    ("torch", "Size"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch", "FloatStorage"),
    ("torch", "HalfStorage"),
    ("torch", "LongStorage"),
    ("torch", "IntStorage"),
    ("torch", "BoolStorage"),
    ("torch", "ByteStorage"),
}


def _load_storage(data: bytes) -> Any:
    """A tensor's storage inside a plain pickle: torch's own format again, read without code."""
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


class _WeightsUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return _load_storage
        if (module, name) in _ALLOWED:
            # numpy 2 moved `numpy.core` to `numpy._core` and numpy 1.26 has both.
            return super().find_class(module, name)
        raise pickle.UnpicklingError(
            f"it asks for {module}.{name}, which a file of weights does not need and which could run code"
        )


def load_pickle(stream: BinaryIO) -> Any:
    """Read a pickle of plain containers, numpy arrays and torch tensors.

    Raises:
        pickle.UnpicklingError: if it asks for anything else.
    """
    # latin1: the arrays of Python 2's pickles, as Detectron2's model zoo has them.
    return _WeightsUnpickler(stream, encoding="latin1").load()


def load_torch(path: str, *, mapped: bool = False) -> Any:
    """`torch.load` on the CPU with `weights_only=True`, plus inert types that old files carry.

    Args:
        mapped: the tensors lie in the file, of which what is never used is never read. Not for legacy files.

    Raises:
        pickle.UnpicklingError: if the file asks for a type that could run code.
    """
    torch.serialization.add_safe_globals(_inert_types())
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def _inert_types() -> list:
    """Containers without behaviour, found in training checkpoints beside the tensors."""
    multiarray = np._core.multiarray if hasattr(np, "_core") else np.core.multiarray
    types = [
        argparse.Namespace,
        CfgNode,
        yacs.config.CfgNode,
        collections.defaultdict,
        np.dtype,
        np.ndarray,
        multiarray.scalar,
        multiarray._reconstruct,
    ]
    types += [type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")]
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 6):
        # Files written under numpy 1 spell the module without the underscore.
        types += [
            (multiarray.scalar, "numpy.core.multiarray.scalar"),
            (multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
        ]
    return types

"""`oneformer train`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence


def load_model():
    """Register OneFormer's parts; returns the function that declares its config keys."""
    for part in ("data", "modeling"):
        importlib.import_module(f"oneformer.{part}")
    from oneformer import add_oneformer_config

    return add_oneformer_config


def main(argv: Sequence[str], prog: str) -> int:
    """Train as the command line says; returns the exit status."""
    from segcore.engine.command import train

    return train({"OneFormer": load_model}, "oneformer", argv, prog)

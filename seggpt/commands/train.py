"""`seggpt train`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence


def load_model():
    """Register SegGPT's parts; returns the function that declares its config keys."""
    for part in ("data", "modeling"):
        importlib.import_module(f"seggpt.{part}")
    from seggpt import add_seggpt_config

    return add_seggpt_config


def main(argv: Sequence[str], prog: str) -> int:
    """Train as the command line says; returns the exit status."""
    from segcore.engine.command import train

    return train({"SegGPT": load_model, "SegGPTTuner": load_model}, "seggpt", argv, prog)

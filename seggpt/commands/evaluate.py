"""`seggpt evaluate`."""

from __future__ import annotations

from collections.abc import Sequence

from .train import load_model


def main(argv: Sequence[str], prog: str) -> int:
    """Evaluate as the command line says; returns the exit status."""
    from segcore.engine.command import evaluate

    return evaluate({"SegGPT": load_model, "SegGPTTuner": load_model}, "seggpt", argv, prog)

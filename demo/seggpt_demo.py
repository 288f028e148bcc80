#!/usr/bin/env python
"""`seggpt predict` for a clone that is not installed; --help says what it does."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from segcore.script import run_script
from seggpt.commands import predict


def load_oneformer(*arguments):
    """OneFormer for --prompt-from; imported only if it is asked for."""
    from oneformer import OneFormerPredictor

    return OneFormerPredictor(*arguments)


def main(argv: list[str] | None = None) -> None:
    """Run the command; see `seggpt.commands.predict.main`."""
    predict.main(argv, "python demo/seggpt_demo.py", {"oneformer": load_oneformer})


if __name__ == "__main__":
    run_script(main)

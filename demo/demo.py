#!/usr/bin/env python
"""`oneformer predict` for a clone that is not installed; --help says what it does."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from oneformer.commands.predict import main, parse_args  # noqa: F401

if __name__ == "__main__":
    try:
        sys.exit(main(prog="python demo/demo.py"))
    except KeyboardInterrupt:
        sys.exit(130)

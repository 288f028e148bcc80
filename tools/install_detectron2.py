#!/usr/bin/env python3
"""Install Detectron2 into this Python: `python tools/install_detectron2.py [--help]`."""

import sys
from pathlib import Path

# Runs before anything is installed, so segcore is taken from this clone.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from segcore.install_detectron2 import main

if __name__ == "__main__":
    sys.exit(main())

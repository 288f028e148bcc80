#!/usr/bin/env python
"""Make Cityscapes' panoptic labels and class-index PNGs (needs: pip install cityscapesscripts).

python datasets/prepare_cityscapes.py [--root DIR] [--splits train val] [--tasks panoptic semantic] [--workers N] [--skip-bad]

What is there already stays; a killed run goes on. datasets/README.md shows the trees.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone that is not installed works too

from segcore.data.prepare.command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main("cityscapes", __doc__))

#!/usr/bin/env python
"""CamVid's semantic test mIoU at 480 x 360, trained from scratch on its 367 pictures.

    python benchmarks/claims/camvid.py [--smoke] [--seeds 0 1 2] [--opts SOLVER.MAX_ITER 40000]

Beside it stands FC-DenseNet103, from scratch on the same split: 66.9 (arXiv:1611.09326, table 3).
Data: $DETECTRON2_DATASETS/camvid.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks.claims.joint import only  # noqa: E402
from benchmarks.claims.table import Row, main  # noqa: E402

ROWS = [
    Row("camvid", "CamVid test", "OneFormer, joint", "camvid.yaml"),
    Row("camvid", "CamVid test", "OneFormer, semantic only", "camvid.yaml", only("semantic")),
]
COLUMNS = ("mIoU",)

if __name__ == "__main__":
    main(ROWS, __doc__, COLUMNS)

#!/usr/bin/env python
"""OneFormer against what a user would pick instead: `transformers`' Mask2Former and Detectron2's Panoptic-FPN.

    python benchmarks/claims/others.py [--smoke] [--rows ROW ...] [--seeds 0 1 2]

The same backbone from scratch, data, augmentation, batches, optimiser and iterations. The others draw panoptic
targets alone, as they are trained; they have one answer for all tasks. Panoptic-FPN is clipped at a norm of 1: at
the transformers' 0.01 it hardly moves. Data: $DETECTRON2_DATASETS/labelmefacade_panoptic.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks.claims.joint import JOINT, only  # noqa: E402
from benchmarks.claims.table import Row, main  # noqa: E402

MASK2FORMER = ("MODEL.META_ARCHITECTURE", "HuggingFaceMask2Former", *only("panoptic"))
PANOPTIC_FPN = (
    "MODEL.META_ARCHITECTURE", "TimmPanopticFPN", *only("panoptic"), "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "1.0",
)  # fmt: skip

FACADE = JOINT["facade"]
ROWS = [
    FACADE,
    Row("others", FACADE.group, "Mask2Former (transformers)", FACADE.config, MASK2FORMER),
    Row("others", FACADE.group, "Panoptic-FPN (Detectron2)", FACADE.config, PANOPTIC_FPN),
]

if __name__ == "__main__":
    main(ROWS, __doc__)

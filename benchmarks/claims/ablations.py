#!/usr/bin/env python
"""OneFormer without each of its parts (arXiv:2211.06220, sec. 4.4), on street photographs.

    python benchmarks/claims/ablations.py [--smoke] [--rows ROW ...] [--seeds 0 1 2]

Data: $DETECTRON2_DATASETS/labelmefacade_panoptic.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks.claims.joint import JOINT, drawn, single  # noqa: E402
from benchmarks.claims.table import Row, main  # noqa: E402


def row(name: str, *options: str) -> Row:
    return Row("ablations", "facade", name, "facade.yaml", options)


ROWS = [
    JOINT["facade"],
    row("without task token", "MODEL.META_ARCHITECTURE", "OneFormerWithoutTask"),
    row("without query-text contrastive loss", "MODEL.ONE_FORMER.CONTRASTIVE_WEIGHT", "0.0"),
    # As many object queries as with them; all of them have a text then.
    row("without contextual tokens", "MODEL.TEXT_ENCODER.N_CTX", "0"),
    row("queries from learned vectors", "MODEL.META_ARCHITECTURE", "OneFormerLearnedQueries"),
    row("panoptic drawn half of the time", *drawn(panoptic=0.5, instance=0.25, semantic=0.25)),
    single("facade", "panoptic"),
]

if __name__ == "__main__":
    main(ROWS, __doc__)

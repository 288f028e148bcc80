#!/usr/bin/env python
"""`train_net.py` with the models of these tables: OneFormer, its ablations, and what it is compared with.

    python benchmarks/claims/train.py --config-file benchmarks/claims/facade.yaml KEY VALUE ...
"""

from __future__ import annotations

import sys
from pathlib import Path

# This file's folder would hide standard names.
sys.path[0] = str(Path(__file__).resolve().parents[2])

from oneformer.commands.train import load_model as oneformer  # noqa: E402
from segcore.engine import main  # noqa: E402

VARIANTS = ["OneFormerWithoutTask", "OneFormerLearnedQueries"]
RIVALS = ["HuggingFaceMask2Former", "TimmPanopticFPN"]


def variant():
    """OneFormer's parts and its ablations."""
    add_config = oneformer()
    from benchmarks.claims import variants  # noqa: F401  (its import registers)

    return add_config


def rival():
    """OneFormer's mapper and config, and the other models."""
    add_config = oneformer()
    from benchmarks.claims import rivals  # noqa: F401  (its import registers)

    return add_config


MODELS = {"OneFormer": oneformer, **dict.fromkeys(VARIANTS, variant), **dict.fromkeys(RIVALS, rival)}

if __name__ == "__main__":
    sys.exit(main(MODELS))

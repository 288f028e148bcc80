#!/usr/bin/env python
"""Train or evaluate OneFormer or SegGPT.

python train_net.py --config-file configs/mini/oneformer_mini.yaml
python train_net.py --config-file CFG --num-gpus 8 [--resume] [KEY VALUE ...]
python train_net.py --config-file CFG --eval-only MODEL.WEIGHTS PATH
torchrun --nproc-per-node 2 train_net.py --config-file CFG MODEL.DEVICE cpu
"""

from __future__ import annotations

import sys

from oneformer.commands.train import load_model as oneformer
from segcore.engine import main
from seggpt.commands.train import load_model as seggpt


def run(argv: list[str] | None = None) -> int:
    """Train or evaluate as the arguments (by default the command line's) say; returns the exit status."""
    return main({"OneFormer": oneformer, "SegGPT": seggpt, "SegGPTTuner": seggpt}, argv)


if __name__ == "__main__":
    sys.exit(run())

#!/usr/bin/env python
"""Train or evaluate OneFormer or SegGPT.

python train_net.py --config-file configs/mini/oneformer_mini.yaml
python train_net.py --config-file CFG --num-gpus 8 [--resume] [KEY VALUE ...]
python train_net.py --config-file CFG --eval-only MODEL.WEIGHTS PATH
torchrun --nproc-per-node 2 train_net.py --config-file CFG MODEL.DEVICE cpu
"""

from __future__ import annotations

import sys

from segcore.engine import main


def oneformer():
    """Register OneFormer; returns the function that declares its config keys."""
    import oneformer.data
    import oneformer.modeling
    from oneformer.config import add_oneformer_config

    return add_oneformer_config


def seggpt():
    """Register SegGPT; returns the function that declares its config keys."""
    import seggpt.data
    import seggpt.modeling
    from seggpt.config import add_seggpt_config

    return add_seggpt_config


if __name__ == "__main__":
    sys.exit(main({"OneFormer": oneformer, "SegGPT": seggpt}))

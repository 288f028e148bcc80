"""Config keys that both models share: solver, data loading, evaluation."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode as CN


def add_segcore_config(cfg: CN) -> None:
    """Add the shared keys to a Detectron2 config, in place; harmless when called twice."""
    if "ACCUMULATE" in cfg.SOLVER:
        return
    solver = cfg.SOLVER
    solver.OPTIMIZER = "ADAMW"
    solver.BACKBONE_MULTIPLIER = 0.1      # learning rate of parameters under `backbone`
    solver.WEIGHT_DECAY_EMBED = 0.0       # nn.Embedding tables
    solver.LAYER_DECAY = 1.0              # factor on the learning rate per layer down, for models that number theirs
    solver.POLY_LR_POWER = 0.9
    solver.POLY_LR_CONSTANT_ENDING = 0.0
    solver.ACCUMULATE = 1                 # batches per optimizer step
    solver.AMP.DTYPE = "float16"          # or "bfloat16"; fp16 needs CUDA
    solver.EMA = CN({"ENABLED": False, "DECAY": 0.9999})

    # Detectron2's default is "cuda" everywhere; ours is what the machine has ("auto" is resolved likewise).
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    cfg.INPUT.DATASET_MAPPER_NAME = ""    # a name in segcore.data.MAPPER_REGISTRY

    cfg.TEST.PROTOCOL = "tasks"           # a name in segcore.evaluation.PROTOCOL_REGISTRY
    cfg.TEST.TASKS = ["panoptic", "instance", "semantic"]
    cfg.OUTPUT_WRITERS = ["console", "json", "tensorboard"]   # also "wandb"

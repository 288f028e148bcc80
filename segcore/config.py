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
    solver.POLY_LR_POWER = 0.9
    solver.POLY_LR_CONSTANT_ENDING = 0.0
    solver.ACCUMULATE = 1                 # batches per optimizer step
    solver.AMP.DTYPE = "float16"          # or "bfloat16"; fp16 needs CUDA
    solver.PARALLEL = "ddp"               # several processes: "ddp", or "fsdp": weights and optimizer in shards
    solver.STATIC_GRAPH = True            # ddp: tell it that every step uses all weights in the same order
    solver.EMA = CN({"ENABLED": False, "DECAY": 0.9999})

    # Detectron2's default is "cuda" everywhere; ours is what the machine has ("auto" is resolved likewise).
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    datasets = cfg.DATASETS
    datasets.CUSTOM = []                  # your own data: a list of specs, see docs/custom_data.md
    datasets.TRAIN_WEIGHTS = []           # of the sets of TRAIN, how often each is drawn; empty: by size
    datasets.CHECK_LABELS = "on_use"      # or "stop", "skip": read all labels first, and end or leave out
    datasets.CLASSES = ""                 # set by the engine: metadata of the classes of CUSTOM, united
    cfg.INPUT.DATASET_MAPPER_NAME = ""    # a name in segcore.data.MAPPER_REGISTRY

    cfg.DETERMINISTIC = "off"             # or "warn", "strict": operators whose results do not vary; slower

    cfg.TEST.TASKS = ["panoptic", "instance", "semantic"]
    # Under OUTPUT_DIR/inference/NAME, as the benchmark's server takes them; also --save-predictions.
    cfg.TEST.SAVE_PREDICTIONS = False
    cfg.OUTPUT_WRITERS = ["console", "json", "tensorboard"]   # also "wandb"


def resolve_datasets(cfg: CN) -> None:
    """Register DATASETS.CUSTOM and take the number of classes from the data, in place.

    The classes of the run are those of DATASETS.TRAIN, united by name where a set is the user's own.  A
    MODEL.SEM_SEG_HEAD.NUM_CLASSES of 0 becomes their number.

    Raises:
        ValueError, FileNotFoundError: see `segcore.data.custom.register_custom` and `unite_classes`.
    """
    from detectron2.data import MetadataCatalog

    from segcore.data.custom import register_custom
    from segcore.data.label_space import unite_classes

    register_custom(cfg.DATASETS.CUSTOM)
    names = list(cfg.DATASETS.TRAIN or cfg.DATASETS.TEST)
    own = {spec["name"] for spec in cfg.DATASETS.CUSTOM}
    if own & {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST}:
        cfg.DATASETS.CLASSES = unite_classes(names)
    head = cfg.MODEL.SEM_SEG_HEAD
    if head.NUM_CLASSES == 0 and names:
        head.NUM_CLASSES = len(MetadataCatalog.get(cfg.DATASETS.CLASSES or names[0]).get("stuff_classes", ()))

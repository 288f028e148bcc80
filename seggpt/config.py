"""Config keys of SegGPT; the defaults are the released ViT-L.

`add_seggpt_config(cfg)` is the only place where they are declared; the functions after it read what
the predictor needs.
"""

from __future__ import annotations

import os

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg

from segcore.config import add_segcore_config


def add_seggpt_config(cfg: CN) -> None:
    """Add SegGPT's keys to a Detectron2 config, in place; harmless when called twice.

    Also registers what the keys can name: the meta-architecture.
    """
    from . import modeling  # noqa: F401  (its import registers the model)

    add_segcore_config(cfg)
    if "SEGGPT" in cfg.MODEL:
        return
    m = cfg.MODEL.SEGGPT = CN()
    m.IMG_SIZE = [896, 448]         # of the stitched canvas: prompt above, query below
    m.PRETRAIN_IMG_SIZE = 224       # position table: (this / PATCH_SIZE) squared, and one class position
    m.PATCH_SIZE = 16
    m.EMBED_DIM = 1024
    m.DEPTH = 24
    m.NUM_HEADS = 16
    m.MLP_RATIO = 4.0
    m.DECODER_DIM = 64
    m.MERGE_BLOCK = 2               # image and target streams are averaged after this block
    m.OUT_BLOCKS = [5, 11, 17, 23]  # whose outputs the decoder reads
    m.DROP_PATH_RATE = 0.1
    m.ATTENTION = "auto"            # a name in seggpt.modeling.attention.FORMS, or "auto"
    m.USE_CHECKPOINT = False        # activation checkpointing of the blocks, in training


def read_config(path: str | os.PathLike) -> CN:
    """A SegGPT config from its YAML file.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it has unknown keys or is another model's.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no config file {path!r}")
    cfg = get_cfg()
    add_seggpt_config(cfg)
    try:
        cfg.merge_from_file(path)
    except KeyError as error:
        raise ValueError(f"{path} is not a SegGPT config: {error.args[0]}") from error
    check_is_seggpt(cfg, path)
    return cfg


def check_is_seggpt(cfg: CN, source: str | os.PathLike) -> None:
    """Raise ValueError if a config is another model's."""
    if cfg.MODEL.META_ARCHITECTURE != "SegGPT":
        raise ValueError(f"{os.fspath(source)} is for {cfg.MODEL.META_ARCHITECTURE}, not for SegGPT")


def configured_weights(cfg: CN) -> str:
    """MODEL.WEIGHTS, "" if there are none."""
    return cfg.MODEL.WEIGHTS

"""A small picture with known results, and a tiny random OneFormer as portable weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from segcore.predictions import Classes, InstanceResult, PanopticResult, Prediction, SemanticResult

CLASSES = Classes(
    names=("sky", "car", "road"),
    colors=((0, 128, 128), (128, 0, 128), (128, 64, 0)),
    things=frozenset({1}),
    category_ids=(10, 20, 30),
)
# Two cars (ids 7 and 300) between sky and road; the left column is void.
IDS = np.array(
    [
        [0, 1, 1, 1, 1, 1],
        [0, 7, 7, 1, 300, 1],
        [0, 7, 7, 2, 300, 2],
        [0, 2, 2, 2, 2, 2],
    ],
    np.int32,
)
CLASS_OF = {1: 0, 7: 1, 300: 1, 2: 2, 99: 2}  # 99 has no pixel

TINY = [
    "INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "96",
    "MODEL.ONE_FORMER.HIDDEN_DIM", "32", "MODEL.ONE_FORMER.NUM_OBJECT_QUERIES", "12",
    "MODEL.ONE_FORMER.DEC_LAYERS", "2", "MODEL.ONE_FORMER.CLASS_DEC_LAYERS", "1",
    "MODEL.ONE_FORMER.DIM_FEEDFORWARD", "32", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32",
    "MODEL.SEM_SEG_HEAD.MASK_DIM", "32", "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", "1",
    "MODEL.TEXT_ENCODER.WIDTH", "32", "MODEL.IS_TRAIN", "False", "MODEL.DEVICE", "cpu",
]  # fmt: skip


def prediction(repeat: int = 1) -> Prediction:
    """The three results, each pixel of IDS enlarged to a square of `repeat`."""
    ids = IDS.repeat(repeat, 0).repeat(repeat, 1)
    panoptic = PanopticResult.from_map(ids, CLASS_OF, CLASSES)
    instance = InstanceResult(
        masks=np.stack([ids == 7, ids == 300]),
        boxes=np.array([[1, 1, 3, 3], [4, 1, 5, 3]], np.float32) * repeat,
        scores=np.array([0.9, 0.6], np.float32),
        class_indices=np.array([1, 1]),
        names=["car", "car"],
    )
    table = np.zeros(301, np.uint8)
    for id_, index in CLASS_OF.items():
        table[id_] = index
    return Prediction(ids.shape, CLASSES, panoptic, instance, SemanticResult(table[ids], CLASSES.names))


def photograph(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def tiny_config(repo: Path):
    """The facade configuration, made small enough for a test."""
    from detectron2.config import get_cfg

    from oneformer import add_oneformer_config

    cfg = get_cfg()
    add_oneformer_config(cfg)
    cfg.merge_from_file(str(repo / "configs" / "facade" / "oneformer_compact.yaml"))
    cfg.merge_from_list(TINY)
    return cfg


def tiny_model(cfg):
    """Random weights, with a class head that is sure of itself, so that something is found."""
    import torch
    from detectron2.modeling import build_model

    import oneformer.modeling  # noqa: F401

    torch.manual_seed(0)
    model = build_model(cfg).eval()
    with torch.no_grad():
        model.sem_seg_head.predictor.class_embed.weight *= 30
    return model


def tiny_weights(repo: Path, path: Path) -> Path:
    """Write the tiny model as portable weights."""
    from detectron2.data import MetadataCatalog

    from segcore.checkpoint import save_portable

    cfg = tiny_config(repo)
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    save_portable(tiny_model(cfg), cfg, path, metadata=metadata, terms="none: random numbers")
    return path

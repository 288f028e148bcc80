"""A OneFormer of a few hundred thousand parameters, for tests; and this repository's own goldens of it.

`python -m tests.oneformer.modeling.compact` writes the goldens anew. Do that only when a change of the
numbers is meant, and with the official goldens at hand and passing.
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

import numpy as np
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Instances

from oneformer import add_oneformer_config
from oneformer.data.text import text_list, unique_texts
from oneformer.data.tokenizer import Tokenizer
from oneformer.tasks import TASKS

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "compact.npz"
CLASSES = ["sky", "grass", "ball", "box"]
THINGS = (2, 3)


def compact_config(*options):
    cfg = get_cfg()
    add_oneformer_config(cfg)
    cfg.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", "OneFormer", "MODEL.DEVICE", "cpu"),
            *("MODEL.BACKBONE.NAME", "timm:regnetx_002", "MODEL.BACKBONE.FREEZE_AT", 0),
            *("MODEL.PIXEL_MEAN", [123.675, 116.28, 103.53], "MODEL.PIXEL_STD", [58.395, 57.12, 57.375]),
            *("MODEL.SEM_SEG_HEAD.NUM_CLASSES", len(CLASSES), "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", 2),
            *("MODEL.SEM_SEG_HEAD.CONVS_DIM", 64, "MODEL.SEM_SEG_HEAD.MASK_DIM", 64),
            *("MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_DIM_FEEDFORWARD", 64),
            *("MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_DROPOUT", 0.0, "MODEL.ONE_FORMER.DROPOUT", 0.0),
            *("MODEL.ONE_FORMER.HIDDEN_DIM", 64, "MODEL.ONE_FORMER.DIM_FEEDFORWARD", 64),
            *("MODEL.ONE_FORMER.NUM_OBJECT_QUERIES", 12, "MODEL.ONE_FORMER.DEC_LAYERS", 4),
            *("MODEL.ONE_FORMER.TRAIN_NUM_POINTS", 128),
            *("MODEL.TEXT_ENCODER.WIDTH", 64, "MODEL.TEXT_ENCODER.NUM_LAYERS", 2, "MODEL.TEXT_ENCODER.N_CTX", 4),
            *("TEST.DETECTIONS_PER_IMAGE", 20, "DATASETS.TEST", ()),
            *options,
        ]
    )
    return cfg


def compact_model(*options):
    """The model, with weights that depend on each parameter's name and shape alone."""
    model = build_model(compact_config(*options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                table = "embed.weight" in name and "class" not in name
                fan_in = 1 if table else parameter.shape[1:].numel()
                parameter.copy_(1.5 * noise / fan_in**0.5)
            elif name.startswith("criterion"):
                pass
            else:
                parameter.copy_(noise * 0.1 + (1.0 if name.endswith("weight") else 0.0))
    model.thing_classes = frozenset(THINGS)
    return model


def image(height, width, seed=0):
    """Blocks of colour with noise, (3, height, width) uint8."""
    rng = np.random.RandomState(seed)
    blocks = rng.randint(0, 256, (3, -(-height // 12), -(-width // 12)))
    pixels = blocks.repeat(12, axis=1).repeat(12, axis=2)[:, :height, :width]
    return torch.from_numpy((pixels + rng.randint(-15, 16, pixels.shape)).clip(0, 255).astype(np.uint8))


def training_input(height, width, labels, task, num_texts, seed=0):
    """An image whose targets are random rectangles of the given classes."""
    rng = np.random.RandomState(seed)
    masks = np.zeros((len(labels), height, width), dtype=bool)
    for mask in masks:
        top, left = rng.randint(0, height - 2), rng.randint(0, width - 2)
        mask[top : top + rng.randint(2, height), left : left + rng.randint(2, width)] = True
    instances = Instances((height, width))
    instances.gt_classes = torch.tensor(labels, dtype=torch.int64)
    instances.gt_masks = torch.from_numpy(masks)
    unique, index = unique_texts(text_list(list(labels), CLASSES, task, num_texts))
    return {
        "image": image(height, width, seed),
        "task": task,
        "instances": instances,
        "text_tokens": Tokenizer()(unique),
        "text_index": torch.tensor(index),
    }


def inference_arrays(model) -> dict[str, np.ndarray]:
    batch = [{"image": image(50, 70), "task": "all"}, {"image": image(40, 90, seed=1), "task": "all"}]
    with torch.inference_mode():
        raw = model.eval().predict_queries(batch)
    assert len(raw["pred_logits"]) == len(batch) * len(TASKS)
    return {"pred_logits": raw["pred_logits"].numpy(), "pred_masks": raw["pred_masks"].numpy()[:, :, ::3, ::3]}


def training_arrays(model) -> dict[str, np.ndarray]:
    """Losses on points drawn with a fixed seed, and the gradient's norm for each part of the model."""
    texts = 12 - 4
    batch = [
        training_input(50, 70, [0, 2, 2, 3], "panoptic", texts),
        training_input(40, 90, [1], "semantic", texts, seed=1),
    ]
    torch.manual_seed(0)
    losses = model.train()(batch)
    sum(losses.values()).backward()
    norms = {}
    for name, parameter in model.named_parameters():
        part = ".".join(name.split(".")[:2])
        norms[part] = norms.get(part, 0.0) + parameter.grad.double().square().sum().item()
    return {f"loss.{k}": v.item() for k, v in losses.items()} | {f"grad.{k}": v**0.5 for k, v in norms.items()}


def main() -> int:
    arrays = inference_arrays(compact_model()) | training_arrays(compact_model())
    np.savez_compressed(GOLDEN, **arrays)
    print(f"{GOLDEN}: {len(arrays)} arrays, {GOLDEN.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())

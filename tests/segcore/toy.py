"""A two-layer model and eight random pictures: enough to train in milliseconds."""

from __future__ import annotations

import argparse
import os
import sys

import numpy as np
import torch
import torch.distributed as dist
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils import comm
from torch import nn
from torch.nn import functional as F

from segcore.config import add_segcore_config
from segcore.data import MAPPER_REGISTRY
from segcore.engine import Trainer, build_config
from segcore.engine.step import unwrap

SIZE = 8
IMAGES = 8


class ToySegmenter(nn.Module):
    """Predicts the mean of a noisy picture; two losses, dropout, an embedding and a norm.

    `poison` is a file name whose loss is NaN.
    """

    def __init__(self, cfg) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.query = nn.Embedding(1, 4)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(4, 1)
        self.poison = ""

    @property
    def device(self):
        return self.head.weight.device

    def forward(self, batch):
        images = torch.stack([d["image"] for d in batch]).to(self.device)
        features = self.norm(self.backbone(images)).flatten(2).mean(-1) + self.query.weight
        value = self.head(self.drop(features)).squeeze(1)
        if not self.training:
            return [{"value": v} for v in value]
        target = torch.stack([d["target"] for d in batch]).to(self.device)
        square = F.mse_loss(value.float(), target)
        if any(d["file_name"] == self.poison for d in batch):
            square = square * float("nan")
        return {"loss_square": square, "loss_abs": 0.1 * F.l1_loss(value.float(), target)}


class ToyMapper:
    """Adds noise from all three global generators, as augmentations do."""

    def __init__(self, cfg, is_train: bool) -> None:
        pass

    def __call__(self, item: dict) -> dict:
        image = torch.as_tensor(item["pixels"]) + 0.1 * torch.randn(3, SIZE, SIZE)
        image = image * float(np.random.uniform(0.9, 1.1))
        return {**item, "image": image, "target": torch.as_tensor(item["pixels"]).mean()}


def toy_items() -> list[dict]:
    generator = np.random.default_rng(0)
    return [
        {
            "file_name": f"picture_{i}.png",
            "image_id": i,
            "width": SIZE + i % 2,
            "height": SIZE,
            "pixels": generator.normal(size=(3, SIZE, SIZE)).astype(np.float32) + i,
        }
        for i in range(IMAGES)
    ]


if "ToySegmenter" not in META_ARCH_REGISTRY:
    META_ARCH_REGISTRY.register(ToySegmenter)
if "ToyMapper" not in MAPPER_REGISTRY:
    MAPPER_REGISTRY.register(ToyMapper)
if "toy_train" not in DatasetCatalog.list():
    DatasetCatalog.register("toy_train", toy_items)
    MetadataCatalog.get("toy_train").set(evaluator_type="toy")


def arguments(**changes) -> argparse.Namespace:
    values = {
        "config_file": "",
        "opts": [],
        "eval_only": False,
        "resume": False,
        "num_gpus": 1,
        "num_machines": 1,
        "machine_rank": 0,
        "dist_url": "auto",
    }
    return argparse.Namespace(**{**values, **changes})


def toy_config(output_dir, *opts):
    base = [
        "MODEL.META_ARCHITECTURE", "ToySegmenter",
        "MODEL.DEVICE", "cpu",
        "INPUT.DATASET_MAPPER_NAME", "ToyMapper",
        "DATASETS.TRAIN", "('toy_train',)",
        "DATASETS.TEST", "()",
        "DATALOADER.NUM_WORKERS", 0,
        "SOLVER.IMS_PER_BATCH", 4,
        "SOLVER.MAX_ITER", 6,
        "SOLVER.BASE_LR", 0.01,
        "SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR",
        "SOLVER.WARMUP_ITERS", 0,
        "SOLVER.CLIP_GRADIENTS.ENABLED", True,
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model",
        "OUTPUT_WRITERS", "['json']",
        "SEED", 3,
        "OUTPUT_DIR", str(output_dir),
    ]  # fmt: skip
    return build_config(arguments(opts=[*base, *opts]), [add_segcore_config])


def toy_trainer(output_dir, *opts) -> Trainer:
    """A trainer whose model's initial weights are the same for every call."""
    torch.manual_seed(0)
    return Trainer(toy_config(output_dir, *opts))


def main(output_dir: str) -> None:
    """One of torchrun's processes: train without dropout, as the test does alone; then meet a NaN."""
    dist.init_process_group("gloo")
    comm.create_local_process_group(dist.get_world_size())
    for poison in ("", "picture_5.png"):
        trainer = toy_trainer(os.path.join(output_dir, poison))
        model = unwrap(trainer.model)
        model.drop.p = 0.0
        model.poison = poison
        trainer.train()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])

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
from segcore.engine import Trainer, build_config, main
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


def toy_process(folder: str, rank: int, world_size: int) -> None:
    """One of several processes: train without dropout, then meet a NaN and write down what it says."""
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
    meeting = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size)
    comm.create_local_process_group(world_size)
    _toy_training(folder).train()
    trainer = _toy_training(os.path.join(folder, "nan"))
    unwrap(trainer.model).poison = "picture_5.png"
    try:
        trainer.train()
    except FloatingPointError as error:
        with open(os.path.join(folder, f"error_{rank}.txt"), "w") as file:
            file.write(str(error))
    dist.destroy_process_group()


def _toy_training(folder: str) -> Trainer:
    trainer = toy_trainer(folder)
    unwrap(trainer.model).drop.p = 0.0
    return trainer


def toy():
    """The toy's config keys are the shared ones."""
    return add_segcore_config


if __name__ == "__main__":
    sys.exit(main({"ToySegmenter": toy}))

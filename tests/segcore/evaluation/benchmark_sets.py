"""The four benchmarks, tiny and prepared, with the ground truth or something near it as a model's output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances

from segcore.data import builtin
from segcore.data.prepare import PREPARATIONS, Options, make
from segcore.evaluation.ground_truth import PanopticGroundTruth
from tests.segcore.data.benchmarks import WRITERS

PANOPTIC = {
    "ade20k": "ade20k_panoptic_val",
    "cityscapes": "cityscapes_fine_panoptic_val",
    "coco": "coco_2017_val_panoptic_with_sem_seg",
    "mapillary": "mapillary_vistas_panoptic_val",
}
INSTANCE = {
    "ade20k": "ade20k_instance_val",
    "cityscapes": "cityscapes_fine_instance_seg_val",
    "coco": "coco_2017_val_panoptic2instance",
    "mapillary": "mapillary_vistas_instance_val",
}
SEMANTIC = {
    "ade20k": "ade20k_sem_seg_val",
    "cityscapes": "cityscapes_fine_sem_seg_val",
    "mapillary": "mapillary_vistas_sem_seg_val",
}


def prepare(root: Path, name: str, train: int = 1, val: int = 3) -> None:
    """Write a benchmark's download under `root`, and what its preparation makes of it."""
    WRITERS[name](root, train=train, val=val)
    for product in PREPARATIONS[name].products(str(root)):
        make(product, Options(workers=1))


def use_root(root: Path) -> None:
    """Let the registered benchmarks lie under `root`."""
    builtin.register_builtin(str(root))


def panoptic_records(name: str) -> list[dict]:
    return DatasetCatalog.get(PANOPTIC[name])


def true_output(name: str, record: dict) -> dict:
    """The ground truth of one panoptic record as a model's output; crowds are not among the segments."""
    truth = PanopticGroundTruth(PANOPTIC[name])
    ids = truth.ids(record["image_id"])
    kept = [s for s in record["segments_info"] if not s["iscrowd"]]
    labels = truth.class_map(record["image_id"], -1)
    return output(name, np.where(np.isin(ids, [s["id"] for s in kept]), ids, 0), kept, np.maximum(labels, 0))


def near_output(name: str, record: dict, seed: int) -> dict:
    """The ground truth seen badly: shifted, a segment lost, a class mistaken, every thing found twice."""
    rng = np.random.default_rng(seed)
    truth = PanopticGroundTruth(PANOPTIC[name])
    shift = int(rng.integers(1, 4))
    ids = np.roll(truth.ids(record["image_id"]), shift, axis=1)
    things = sorted({s["category_id"] for s in record["segments_info"] if s["isthing"]})
    kept = []
    for segment in record["segments_info"]:
        if rng.random() < 0.2:
            continue
        wrong = segment["isthing"] and rng.random() < 0.2
        kept.append({**segment, "category_id": int(rng.choice(things)) if wrong else segment["category_id"]})
    kept = [s for s in kept if (ids == s["id"]).any()]
    labels = np.roll(np.maximum(truth.class_map(record["image_id"], -1), 0), shift, axis=0)
    found = output(name, np.where(np.isin(ids, [s["id"] for s in kept]), ids, 0), kept, labels)
    again = found["instances"]
    again = Instances(
        again.image_size,
        pred_masks=torch.roll(again.pred_masks, 2, dims=1),
        scores=again.scores * 0.5,
        pred_classes=again.pred_classes,
    )
    found["instances"] = Instances.cat([found["instances"], again])
    # Few values, so that many predictions have the same score.
    found["instances"].scores = torch.from_numpy(rng.integers(1, 5, len(found["instances"])) / 5)
    return found


def output(name: str, ids: np.ndarray, segments: list[dict], labels: np.ndarray) -> dict:
    """Detectron2's output dict; `segments` have class indices."""
    numbers = MetadataCatalog.get(PANOPTIC[name]).get("instance_class_map", None)
    things = [s for s in segments if s["isthing"]]
    instances = Instances(ids.shape)
    masks = [ids == s["id"] for s in things]
    instances.pred_masks = torch.from_numpy(np.stack(masks) if masks else np.zeros((0, *ids.shape), bool))
    instances.scores = 1 - torch.arange(len(things)) / 100
    classes = [s["category_id"] if numbers is None else numbers[s["category_id"]] for s in things]
    instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return {
        "panoptic_seg": (
            torch.from_numpy(ids.astype(np.int64)),
            [{k: s[k] for k in ("id", "category_id", "isthing")} for s in segments],
        ),
        "instances": instances,
        "sem_seg": torch.from_numpy(labels.astype(np.int64)),
    }


def evaluate(evaluator, records: list[dict], outputs: list[dict]) -> dict:
    evaluator.reset()
    for record, found in zip(records, outputs):
        evaluator.process([record], [found])
    return evaluator.evaluate()

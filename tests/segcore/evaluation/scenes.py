"""Tiny panoptic data sets for the evaluators' tests: scenes, imperfect predictions, files, metadata."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from PIL import Image

CATEGORIES = [
    {"id": 7, "name": "car", "isthing": 1},
    {"id": 11, "name": "door", "isthing": 1},
    {"id": 23, "name": "window", "isthing": 1},
    {"id": 40, "name": "sky", "isthing": 0},
    {"id": 41, "name": "road", "isthing": 0},
    {"id": 55, "name": "wall", "isthing": 0},
]
Scene = tuple[np.ndarray, list[dict]]  # (H, W) segment ids, the segments

THINGS = {7: 0, 11: 1, 23: 2}
CLASSES = {category["id"]: index for index, category in enumerate(CATEGORIES)}


def cells(rng: np.random.Generator, height: int, width: int, count: int) -> np.ndarray:
    """(H, W) map of `count` cells with wavy borders, numbered from 0."""
    y, x = np.mgrid[:height, :width].astype(float)
    y = y + 3 * np.sin(x / 5 + rng.uniform(0, 6))
    x = x + 3 * np.sin(y / 7 + rng.uniform(0, 6))
    sites_y, sites_x = rng.uniform(0, height, count), rng.uniform(0, width, count)
    distance = (y[..., None] - sites_y) ** 2 + (x[..., None] - sites_x) ** 2
    return distance.argmin(-1)


def ground_truth(rng: np.random.Generator, height=48, width=64, count=14) -> Scene:
    """A scene with void, crowds, ids anywhere in three bytes, and sometimes a segment without pixels."""
    cell = cells(rng, height, width, count)
    ids = np.concatenate([[0], rng.choice(2**24 - 1, count + 1, replace=False) + 1])
    owner = np.where(rng.random(count) < 0.15, 0, np.arange(1, count + 1))
    image = ids[owner[cell]]
    listed = np.unique(image[image > 0]).tolist()
    if rng.random() < 0.5:
        listed.append(int(ids[-1]))  # in the JSON, not in the PNG
    segments = []
    for segment_id in listed:
        category = int(rng.choice(list(CLASSES)))
        crowd = int(category in THINGS and rng.random() < 0.3)
        segments.append({"id": segment_id, "category_id": category, "iscrowd": crowd})
    return image.astype(np.int32), segments


def prediction(rng: np.random.Generator, ids: np.ndarray, segments: list[dict]) -> Scene:
    """The scene seen badly: shifted, some segments lost, some of another category, some painted over void."""
    category_of = {segment["id"]: segment["category_id"] for segment in segments}
    seen = np.roll(ids, (int(rng.integers(0, 3)), int(rng.integers(0, 3))), axis=(0, 1)).astype(np.int64)
    seen[(seen == 0) & (cells(rng, *ids.shape, 3) > 0)] = -1  # an extra segment on void
    for _ in range(2):  # extra rectangles
        top, left = rng.integers(0, ids.shape[0] - 8), rng.integers(0, ids.shape[1] - 8)
        seen[top : top + rng.integers(2, 20), left : left + rng.integers(2, 20)] = -2 - rng.integers(0, 2)
    image, found = np.zeros(ids.shape, np.int32), []
    for label in np.unique(seen[seen != 0]).tolist():
        if rng.random() < 0.1:
            continue
        category = category_of.get(label)
        if category is None or rng.random() < 0.15:
            category = int(rng.choice(list(CLASSES)))
        found.append({"id": len(found) + 1, "category_id": category})
        image[seen == label] = len(found)
    return image, found


def outputs(rng: np.random.Generator, ids: np.ndarray, segments: list[dict]) -> dict:
    """What a model that saw `prediction` would return: Detectron2's keys, class indices, tensors."""
    panoptic = [
        {"id": s["id"], "category_id": CLASSES[s["category_id"]], "isthing": s["category_id"] in THINGS}
        for s in segments
    ]
    things = [s for s in segments if s["category_id"] in THINGS]
    instances = Instances(ids.shape)
    masks = np.stack([ids == s["id"] for s in things] or [ids < 0])[: len(things)]
    instances.pred_masks = torch.from_numpy(masks)
    instances.scores = torch.from_numpy(rng.random(len(things)).astype(np.float32))
    instances.pred_classes = torch.tensor([CLASSES[s["category_id"]] for s in things], dtype=torch.int64)
    scores = torch.from_numpy(rng.random((len(CLASSES), *ids.shape)).astype(np.float32))
    for segment in segments:
        scores[CLASSES[segment["category_id"]]][torch.from_numpy(ids == segment["id"])] += 1
    return {"panoptic_seg": (torch.from_numpy(ids), panoptic), "instances": instances, "sem_seg": scores}


def write_data_set(folder: Path, scenes: list[Scene]) -> None:
    """Write scenes as a COCO-panoptic folder: panoptic/*.png and panoptic.json, image ids 101, 102, ..."""
    (folder / "panoptic").mkdir(parents=True)
    annotations = []
    for number, (ids, segments) in enumerate(scenes, start=101):
        channels = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
        Image.fromarray(channels).save(folder / "panoptic" / f"{number:06d}.png")
        annotations.append({"image_id": number, "file_name": f"{number:06d}.png", "segments_info": segments})
    content = {"images": [], "annotations": annotations, "categories": CATEGORIES}
    (folder / "panoptic.json").write_text(json.dumps(content))


def register(folder: Path, **fields) -> str:
    """Set the metadata of the folder's data set under the folder's path as name; returns the name."""
    name = str(folder)
    MetadataCatalog.pop(name, None)
    MetadataCatalog.get(name).set(
        panoptic_root=str(folder / "panoptic"),
        panoptic_json=str(folder / "panoptic.json"),
        stuff_classes=[category["name"] for category in CATEGORIES],
        thing_classes=[category["name"] for category in CATEGORIES if category["isthing"]],
        thing_dataset_id_to_contiguous_id=dict(THINGS),
        stuff_dataset_id_to_contiguous_id=dict(CLASSES),
        ignore_label=255,
        label_divisor=1000,
        **fields,
    )
    return name


def inputs(number: int) -> dict:
    """The input dict of the image with this position in the data set."""
    return {"image_id": 101 + number, "file_name": f"images/{101 + number:06d}.jpg"}


def make(folder: Path, count: int, seed: int = 0, **fields):
    """Write and register `count` scenes; returns (name, scenes, model outputs per scene)."""
    rng = np.random.default_rng(seed)
    scenes = [ground_truth(rng) for _ in range(count)]
    write_data_set(folder, scenes)
    return register(folder, **fields), scenes, [outputs(rng, *prediction(rng, *scene)) for scene in scenes]


def perfect(ids: np.ndarray, segments: list[dict]) -> dict:
    """The ground truth as a model's output: no crowds among the instances, void where there is none."""
    shown = [s for s in segments if (ids == s["id"]).any()]
    kept = {s["id"] for s in shown if not s["iscrowd"]}
    return outputs(
        np.random.default_rng(0),
        np.where(np.isin(ids, list(kept)), ids, 0).astype(np.int32),
        [s for s in shown if s["id"] in kept],
    )

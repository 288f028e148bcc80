#!/usr/bin/env python
"""How fast is the training mapper? Ours against the straightforward form, on the same pictures in one run.

The straightforward form works segment by segment on masks of full size: one comparison of the panoptic map
per segment, a box of every mask from coordinate grids, all texts tokenised, labels as int64. Both draw the
same random numbers; every output is compared before anything is timed. One process, one thread.

    python benchmarks/mapper.py [--images 24] [--output FILE]
"""

from __future__ import annotations

import argparse
import json
import pickle
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import Instances
from PIL import Image
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installing

from oneformer.data.augmentation import lsj, resize_crop
from oneformer.data.mapper import OneFormerMapper
from oneformer.data.text import text_list
from oneformer.data.tokenizer import Tokenizer

NUM_CLASSES, NUM_THINGS, NUM_TEXTS = 133, 80, 134
CLASS_NAMES = [f"thing number {i}" if i < NUM_THINGS else f"stuff number {i}" for i in range(NUM_CLASSES)]
TASK_PROB = {"semantic": 0.33, "instance": 0.33, "panoptic": 0.34}
# name -> augmentations, picture size (height, width), segments
RECIPES = {
    "lsj 1024": (
        lambda: lsj(image_size=1024, min_scale=0.1, max_scale=2.0), (480, 640), 20,
    ),
    "ade 512 crop": (
        lambda: resize_crop(
            min_sizes=[int(512 * x / 10) for x in range(5, 21)],
            max_size=2048,
            sampling="choice",
            crop=("absolute", (512, 512)),
            color_jitter=True,
            pad_to=512,
        ),
        (512, 683),
        20,
    ),
}


def write_pictures(folder: Path, size: tuple[int, int], segments: int, count: int) -> list[dict]:
    """JPEGs of blurred noise and panoptic PNGs of wavy cells; returns their records."""
    rng, records = np.random.default_rng(0), []
    height, width = size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    for number in range(count):
        distance = [
            (y + 9 * np.sin(x / 31) - rng.uniform(0, height)) ** 2
            + (x + 9 * np.sin(y / 27) - rng.uniform(0, width)) ** 2
            for _ in range(segments + 1)
        ]
        cell = np.argmin(distance, axis=0)
        ids = rng.choice(2**24 - 2, segments, replace=False) + 1
        ids_of_pixels = np.append(0, ids)[cell]  # one cell is void
        channels = [ids_of_pixels % 256, ids_of_pixels // 256 % 256, ids_of_pixels // 65536]
        label, picture = folder / f"{number}.png", folder / f"{number}.jpg"
        Image.fromarray(np.stack(channels, -1).astype(np.uint8)).save(label)
        noise = cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3)).astype(np.uint8), (0, 0), 3)
        Image.fromarray(noise).save(picture, quality=90)
        records.append(
            {
                "file_name": str(picture),
                "pan_seg_file_name": str(label),
                "image_id": number,
                "height": height,
                "width": width,
                "segments_info": [
                    {"id": int(i), "category_id": int(rng.integers(NUM_CLASSES)), "iscrowd": int(rng.random() < 0.05)}
                    for i in ids
                ],
            }
        )
    return records


class PerSegmentMapper:
    """The recipe as it is usually written: masks of full size from the first step on."""

    def __init__(self, augmentations: list[T.Augmentation]) -> None:
        self.augmentations = T.AugmentationList(augmentations)
        self.tokenizer = Tokenizer()

    def __call__(self, record: dict) -> dict:
        image = np.asarray(Image.open(record["file_name"]).convert("RGB"))
        augmented = T.AugInput(image)
        transforms = self.augmentations(augmented)
        colours = np.asarray(Image.open(record["pan_seg_file_name"]))
        colours = transforms.apply_segmentation(colours).astype(np.int64)
        ids = colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]
        draw = np.random.uniform(0, 1)
        task = "semantic" if draw < 0.33 else "instance" if draw < 0.66 else "panoptic"

        sem_seg = np.full(ids.shape, 255, np.int64)
        classes, masks = [], []
        for segment in record["segments_info"]:
            category = segment["category_id"]
            if segment["iscrowd"] or (task == "instance" and category >= NUM_THINGS):
                continue
            mask = ids == segment["id"]
            if not mask.any():
                continue
            sem_seg[mask] = category
            if task == "semantic" and category in classes:
                masks[classes.index(category)] |= mask
            else:
                classes.append(category)
                masks.append(mask)
        instances = Instances(ids.shape)
        instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
        stacked = np.stack(masks) if masks else np.zeros((0, *ids.shape), bool)
        instances.gt_masks = torch.from_numpy(stacked)
        instances.gt_bboxes = boxes_of(instances.gt_masks)
        texts = text_list(classes, CLASS_NAMES, task, NUM_TEXTS)
        return {
            **record,
            "image": torch.from_numpy(np.ascontiguousarray(augmented.image.transpose(2, 0, 1))),
            "instances": instances,
            "sem_seg": torch.from_numpy(sem_seg),
            "task": task,
            "text": texts,
            "tokens": self.tokenizer(texts),
        }


def boxes_of(masks: torch.Tensor) -> torch.Tensor:
    """(M, 4) x0, y0, x1, y1 of (M, H, W) masks, from grids of coordinates."""
    if not len(masks):
        return torch.zeros(0, 4)
    height, width = masks.shape[1:]
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    columns, rows = (masks * x).flatten(1), (masks * y).flatten(1)
    outside = ~masks
    return torch.stack(
        [
            x.masked_fill(outside, 1e8).flatten(1).amin(1),
            y.masked_fill(outside, 1e8).flatten(1).amin(1),
            columns.amax(1),
            rows.amax(1),
        ],
        1,
    )


def seeded(mapper: Callable[[dict], dict], record: dict) -> dict:
    random.seed(record["image_id"])
    np.random.seed(record["image_id"])
    return mapper(dict(record))


def check_equal(ours: dict, theirs: dict) -> None:
    same = (
        ours["task"] == theirs["task"]
        and torch.equal(ours["image"], theirs["image"])
        and torch.equal(ours["instances"].gt_classes, theirs["instances"].gt_classes)
        and torch.equal(ours["instances"].gt_masks.tensor, theirs["instances"].gt_masks)
        and torch.equal(ours["sem_seg"].long(), theirs["sem_seg"])
        and ours["text"] == theirs["text"]
        and torch.equal(ours["text_tokens"][ours["text_index"]], theirs["tokens"])
    )
    if not same:
        raise RuntimeError(f"the two mappers differ on {ours['file_name']}")


def measure(name: str, folder: Path, count: int) -> dict:
    """Milliseconds per image and megabytes handed over; raises if the outputs differ."""
    recipe, size, segments = RECIPES[name]
    records = write_pictures(folder, size, segments, count)
    ours = OneFormerMapper(
        is_train=True,
        augmentations=recipe(),
        class_names=CLASS_NAMES,
        thing_ids=range(NUM_THINGS),
        task_prob=TASK_PROB,
        num_texts=NUM_TEXTS,
    )
    theirs = PerSegmentMapper(recipe())
    for record in records:
        check_equal(seeded(ours, record), seeded(theirs, record))
    ms: dict[str, list[float]] = {"ours": [], "per segment": []}
    mb: dict[str, list[float]] = {"ours": [], "per segment": []}
    for record in records:
        for label, mapper in (("ours", ours), ("per segment", theirs)):
            start = time.perf_counter()
            output = seeded(mapper, record)
            ms[label].append(1e3 * (time.perf_counter() - start))
            mb[label].append(len(pickle.dumps(output)) / 1e6)
    return {
        "recipe": name,
        "picture": f"{size[0]}x{size[1]}",
        "segments": segments,
        "images": count,
        "ms_median": {k: statistics.median(v) for k, v in ms.items()},
        "ms_mean": {k: statistics.mean(v) for k, v in ms.items()},
        "images_per_second_per_core": {k: 1e3 / statistics.mean(v) for k, v in ms.items()},
        "mb_per_image": {k: statistics.mean(v) for k, v in mb.items()},
        "mb_per_image_largest": {k: max(v) for k, v in mb.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--output", type=Path, help="also write the JSON line to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rows = []
    for name in RECIPES:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(name, Path(folder), arguments.images))
    table = [
        [
            r["recipe"],
            r["ms_median"]["ours"],
            r["ms_median"]["per segment"],
            r["ms_median"]["per segment"] / r["ms_median"]["ours"],
            r["images_per_second_per_core"]["ours"],
            r["mb_per_image"]["ours"],
            r["mb_per_image"]["per segment"],
        ]
        for r in rows
    ]
    headers = ["recipe", "ours ms", "per segment ms", "x", "ours images/s/core", "ours MB", "per segment MB"]
    print(tabulate(table, headers, floatfmt=".1f"))
    versions = {"torch": torch.__version__, "numpy": np.__version__, "opencv": cv2.__version__}
    line = json.dumps({"benchmark": "mapper", "device": "cpu, 1 thread", "versions": versions, "results": rows})
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(line + "\n")
    print(line)


if __name__ == "__main__":
    main()

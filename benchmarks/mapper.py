#!/usr/bin/env python
"""How fast is the training mapper? Ours against the straightforward form, on the same pictures in one run.

The straightforward form (tests/oneformer/data/straightforward.py) follows the released mappers: Detectron2's
transforms on whole pictures, and masks of full size, segment by segment. Both draw the same random numbers; every
output is compared before anything is timed. One process, one thread.

    python benchmarks/mapper.py [--images 24] [--rounds 3] [--output FILE]
"""

from __future__ import annotations

import argparse
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
import PIL
import torch
from PIL import Image
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installing

from benchmarks.reporting import report
from oneformer.data.augmentation import lsj, resize_crop
from oneformer.data.mapper import OneFormerMapper
from segcore.ops import extension
from tests.oneformer.data import straightforward
from tests.oneformer.data.straightforward import StraightforwardMapper

NUM_CLASSES, NUM_THINGS, NUM_TEXTS = 133, 80, 134
CLASS_NAMES = [f"thing number {i}" if i < NUM_THINGS else f"stuff number {i}" for i in range(NUM_CLASSES)]
THINGS = range(NUM_THINGS)
SEGMENTS = 20
ADE_SIZES = [int(512 * x / 10) for x in range(5, 21)]


def lsj_1024() -> tuple[tuple[int, int], OneFormerMapper, StraightforwardMapper]:
    """COCO's recipe: picture size (height, width), our mapper, the straightforward one."""
    settings = {"image_size": 1024, "min_scale": 0.1, "max_scale": 2.0}
    return (480, 640), our_mapper(lsj(**settings)), their_mapper(straightforward.lsj(**settings))


def ade_512() -> tuple[tuple[int, int], OneFormerMapper, StraightforwardMapper]:
    """ADE20K's recipe, likewise."""
    ours = resize_crop(
        min_sizes=ADE_SIZES,
        max_size=2048,
        sampling="choice",
        crop=("absolute", (512, 512)),
        color_jitter=True,
        pad_to=512,
    )
    theirs = straightforward.resize_crop(ADE_SIZES, 2048, (512, 512))
    return (512, 683), our_mapper(ours), their_mapper(theirs, pad_to=512, with_semantic=True)


def our_mapper(augmentations: list) -> OneFormerMapper:
    return OneFormerMapper(
        is_train=True,
        augmentations=augmentations,
        class_names=CLASS_NAMES,
        thing_ids=THINGS,
        task_prob={"semantic": 0.33, "instance": 0.33, "panoptic": 0.34},
        num_texts=NUM_TEXTS,
    )


def their_mapper(augmentations: list, **settings) -> StraightforwardMapper:
    return StraightforwardMapper(
        augmentations,
        class_names=CLASS_NAMES,
        thing_ids=THINGS,
        num_texts=NUM_TEXTS,
        task_prob=(0.33, 0.33),
        **settings,
    )


RECIPES = {"lsj 1024": lsj_1024, "ade 512 crop": ade_512}


def write_pictures(folder: Path, size: tuple[int, int], count: int) -> list[dict]:
    """JPEGs of blurred noise, panoptic PNGs of wavy cells and their semantic PNGs; returns their records."""
    rng, records = np.random.default_rng(0), []
    height, width = size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    for number in range(count):
        distance = [
            (y + 9 * np.sin(x / 31) - rng.uniform(0, height)) ** 2
            + (x + 9 * np.sin(y / 27) - rng.uniform(0, width)) ** 2
            for _ in range(SEGMENTS + 1)
        ]
        cell = np.argmin(distance, axis=0)
        ids = rng.choice(2**24 - 2, SEGMENTS, replace=False) + 1
        categories = rng.integers(0, NUM_CLASSES, SEGMENTS)
        ids_of_pixels = np.append(0, ids)[cell]  # one cell is void
        channels = [ids_of_pixels % 256, ids_of_pixels // 256 % 256, ids_of_pixels // 65536]
        picture, panoptic, semantic = (folder / f"{number}{end}" for end in (".jpg", "_panoptic.png", "_semantic.png"))
        noise = cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3)).astype(np.uint8), (0, 0), 3)
        Image.fromarray(noise).save(picture, quality=90)
        Image.fromarray(np.stack(channels, -1).astype(np.uint8)).save(panoptic)
        Image.fromarray(np.append(255, categories)[cell].astype(np.uint8)).save(semantic)
        segments = [
            {"id": int(i), "category_id": int(c), "iscrowd": int(rng.random() < 0.05)} for i, c in zip(ids, categories)
        ]
        names = {"file_name": picture, "pan_seg_file_name": panoptic, "sem_seg_file_name": semantic}
        record = {**{key: str(path) for key, path in names.items()}, "segments_info": segments}
        records.append({**record, "image_id": number, "height": height, "width": width})
    return records


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


def measure(name: str, folder: Path, count: int, rounds: int) -> dict:
    """Milliseconds per image and megabytes handed over; raises if the outputs differ."""
    size, ours, theirs = RECIPES[name]()
    records = write_pictures(folder, size, count)
    mappers = {"ours": ours, "straightforward": theirs}
    mb: dict[str, list[float]] = {label: [] for label in mappers}
    for record in records:
        outputs = {label: seeded(mapper, record) for label, mapper in mappers.items()}
        check_equal(*outputs.values())
        for label, output in outputs.items():
            mb[label].append(len(pickle.dumps(output)) / 1e6)
    ms: dict[str, list[float]] = {label: [] for label in mappers}
    for record in records * rounds:
        for label, mapper in mappers.items():
            start = time.perf_counter()
            seeded(mapper, record)
            ms[label].append(1e3 * (time.perf_counter() - start))
    return {
        "recipe": name,
        "picture": f"{size[0]}x{size[1]}",
        "segments": SEGMENTS,
        "images": count,
        "rounds": rounds,
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
    parser.add_argument("--rounds", type=int, default=3, help="over all images")
    parser.add_argument("--output", type=Path, help="also write the JSON to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rows = []
    for name in RECIPES:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(name, Path(folder), arguments.images, arguments.rounds))
    table = [
        [
            r["recipe"],
            r["ms_median"]["ours"],
            r["ms_median"]["straightforward"],
            r["ms_median"]["straightforward"] / r["ms_median"]["ours"],
            r["images_per_second_per_core"]["ours"],
            r["mb_per_image"]["ours"],
            r["mb_per_image"]["straightforward"],
        ]
        for r in rows
    ]
    headers = ["recipe", "ours ms", "straightforward ms", "x", "ours images/s/core", "ours MB", "straightforward MB"]
    print(tabulate(table, headers, floatfmt=".1f"))
    modules = {"numpy": np, "opencv": cv2, "pillow": PIL}
    versions = {name: module.__version__ for name, module in modules.items()}
    header = {"benchmark": "mapper", "operators": extension.status(), "versions": versions}
    report({**header, "results": rows}, arguments.output)


if __name__ == "__main__":
    main()

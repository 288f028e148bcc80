"""Tiny copies of the four benchmarks' downloads, in their true formats and folders, for tests.

Every image shows stuff in bands, things on it, and a stripe of void.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from segcore.data.builtin import builtin_content

HEIGHT, WIDTH = 72, 96
VOID = -1


class Scene:
    """(H, W) class indices, VOID where there is none, and (H, W) numbers of the things, 0 where there is none."""

    def __init__(self, seed: int, stuff: list[int], things: list[int]) -> None:
        rng = np.random.default_rng(seed)
        self.image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        self.classes = np.empty((HEIGHT, WIDTH), np.int32)
        bands = rng.choice(stuff, 3, replace=False)
        for number, band in enumerate(np.array_split(np.arange(HEIGHT), 3)):
            self.classes[band] = bands[number]
        self.classes[:, :4] = VOID
        self.things = np.zeros((HEIGHT, WIDTH), np.int32)
        for number in range(1, 5):  # apart from each other: none covers another
            left = 6 + (number - 1) * 22
            top, height, width = rng.integers(2, 30), rng.integers(14, 36), rng.integers(12, 18)
            area = np.s_[top : top + height, left : left + width]
            self.classes[area] = rng.choice(things)
            self.things[area] = number


def _scenes(name: str, count: int, seed: int) -> list[Scene]:
    categories = builtin_content(name)["categories"]
    stuff = [i for i, c in enumerate(categories) if not c["isthing"]]
    things = [i for i, c in enumerate(categories) if c["isthing"]]
    return [Scene(seed + number, stuff, things) for number in range(count)]


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write_ade20k(root: Path, train: int = 3, val: int = 2) -> None:
    base = root / "ADEChallengeData2016"
    things = [i for i, c in enumerate(builtin_content("ade20k")["categories"]) if c["isthing"]]
    for folder, prefix, count, seed in (("training", "train", train, 0), ("validation", "val", val, 100)):
        for number, scene in enumerate(_scenes("ade20k", count, seed), start=1):
            stem = f"ADE_{prefix}_{number:08d}"
            save(base / "images" / folder / f"{stem}.jpg", scene.image)
            save(base / "annotations" / folder / f"{stem}.png", (scene.classes + 1).astype(np.uint8))
            instances = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
            shown = scene.things > 0
            instances[shown, 0] = np.searchsorted(things, scene.classes[shown]) + 1
            instances[..., 1] = scene.things
            save(base / "annotations_instance" / folder / f"{stem}.png", instances)


def write_coco(root: Path, train: int = 3, val: int = 2) -> None:
    base = root / "coco"
    categories = builtin_content("coco")["categories"]
    for split, count, seed in (("train2017", train, 200), ("val2017", val, 300)):
        images, annotations, instances = [], [], []
        for number, scene in enumerate(_scenes("coco", count, seed), start=7):
            stem = f"{number:012d}"
            save(base / split / f"{stem}.jpg", scene.image)
            ids, segments = _numbered(scene)
            save(base / f"panoptic_{split}" / f"{stem}.png", _rgb(ids))
            for segment in segments:
                segment["category_id"] = categories[segment["category_id"]]["id"]
            images.append({"id": number, "file_name": f"{stem}.jpg", "height": HEIGHT, "width": WIDTH})
            annotations.append({"image_id": number, "file_name": f"{stem}.png", "segments_info": segments})
            for segment in segments:
                if categories_by_id(categories)[segment["category_id"]]["isthing"]:
                    x, y, w, h = segment["bbox"]
                    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
                    instances.append(
                        {**segment, "id": len(instances) + 1, "image_id": number, "segmentation": [polygon]}
                    )
        write_json(
            base / "annotations" / f"panoptic_{split}.json",
            {"images": images, "annotations": annotations, "categories": categories},
        )
        write_json(
            base / "annotations" / f"instances_{split}.json",
            {"images": images, "annotations": instances, "categories": [c for c in categories if c["isthing"]]},
        )


def write_cityscapes(root: Path, train: int = 3, val: int = 2) -> None:
    base = root / "cityscapes"
    categories = builtin_content("cityscapes")["categories"]
    for split, count, seed in (("train", train, 400), ("val", val, 500)):
        for number, scene in enumerate(_scenes("cityscapes", count, seed)):
            city = ("aachen", "zurich")[number % 2]
            stem = f"{city}_{number:06d}_000019"
            save(base / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", scene.image)
            labels = np.zeros((HEIGHT, WIDTH), np.int32)  # 0: unlabeled
            for index, category in enumerate(categories):
                labels[scene.classes == index] = category["id"]
            instances = labels.copy()
            for thing in range(1, scene.things.max() + 1):
                mask = scene.things == thing
                if thing == 4 and number == 0:
                    continue  # a group: the label alone
                instances[mask] = labels[mask] * 1000 + thing
            folder = base / "gtFine" / split / city
            save(folder / f"{stem}_gtFine_labelIds.png", labels.astype(np.uint8))
            save(folder / f"{stem}_gtFine_instanceIds.png", instances.astype(np.uint16))


def write_mapillary(root: Path, train: int = 3, val: int = 2) -> None:
    base = root / "mapillary_vistas"
    categories = builtin_content("mapillary")["categories"]
    labels = [
        {"readable": c["name"], "instances": bool(c["isthing"]), "evaluate": True, "color": c["color"]}
        for c in categories
    ]
    unlabeled = {"readable": "Unlabeled", "instances": False, "evaluate": False, "color": [0, 0, 0]}
    write_json(base / "config.json", {"labels": [*labels, unlabeled]})
    for folder, count, seed in (("training", train, 600), ("validation", val, 700)):
        for number, scene in enumerate(_scenes("mapillary", count, seed)):
            stem = f"_key{number}-{folder[0]}"
            save(base / folder / "images" / f"{stem}.jpg", scene.image)
            values = np.where(scene.classes == VOID, len(categories), scene.classes) * 256
            values[scene.things > 0] += scene.things[scene.things > 0] - 1
            save(base / folder / "instances" / f"{stem}.png", values.astype(np.uint16))


WRITERS: dict[str, Callable[..., None]] = {
    "ade20k": write_ade20k,
    "cityscapes": write_cityscapes,
    "coco": write_coco,
    "mapillary": write_mapillary,
}


def categories_by_id(categories: list[dict]) -> dict[int, dict]:
    return {category["id"]: category for category in categories}


def write_json(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _numbered(scene: Scene) -> tuple[np.ndarray, list[dict]]:
    """Segment ids and the segments with class indices; the last thing is a crowd."""
    ids = np.zeros((HEIGHT, WIDTH), np.int32)
    segments = []
    parts = [(c, (scene.classes == c) & (scene.things == 0)) for c in np.unique(scene.classes) if c != VOID]
    parts += [(None, scene.things == thing) for thing in range(1, scene.things.max() + 1)]
    for number, (category, mask) in enumerate(parts, start=1):
        if not mask.any():
            continue
        segment_id = 1000 * number + 7
        ids[mask] = segment_id
        rows, columns = np.nonzero(mask)
        segments.append(
            {
                "id": segment_id,
                "category_id": int(scene.classes[mask][0] if category is None else category),
                "area": int(mask.sum()),
                "bbox": [int(columns.min()), int(rows.min()), int(np.ptp(columns) + 1), int(np.ptp(rows) + 1)],
                "iscrowd": int(number == len(parts)),
            }
        )
    return ids, segments


def _rgb(ids: np.ndarray) -> np.ndarray:
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)

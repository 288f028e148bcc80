"""Small data sets of every kind of label, drawn from one scene, written where a test says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_api
from PIL import Image

HEIGHT, WIDTH = 32, 48
CLASSES = ["sky", "grass", "ball"]


def labels(number: int) -> np.ndarray:
    """(H, W) uint8: sky above, grass below, two balls that move with the number."""
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    ids[HEIGHT // 2 :] = 1
    for mask in balls(number):
        ids[mask] = 2
    return ids


def balls(number: int) -> list[np.ndarray]:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    centres = [(10 + number % 5, 12 + number % 7), (22, 34 - number % 6)]
    return [(rows - y) ** 2 + (columns - x) ** 2 < 30 for y, x in centres]


def write_images(root: Path, count: int, suffix: str = "") -> None:
    root.mkdir(parents=True)
    palette = np.array([[120, 170, 255], [60, 160, 60], [230, 60, 50]], np.uint8)
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 20, (HEIGHT, WIDTH, 1)).astype(np.uint8)
        Image.fromarray(palette[labels(number)] - noise).save(root / f"{number:02d}{suffix}.png")


def write_semantic(root: Path, count: int, **values: int) -> dict:
    """Images and label PNGs; the arguments of `register_semantic`."""
    write_images(root / "images", count)
    (root / "labels").mkdir()
    for number in range(count):
        Image.fromarray(labels(number)).save(root / "labels" / f"{number:02d}.png")
    return {"image_root": str(root / "images"), "label_root": str(root / "labels"), "classes": CLASSES}


def write_instance_json(root: Path, count: int) -> dict:
    """Images and COCO annotations, a polygon and an RLE in each; the arguments of `register_instances`."""
    write_images(root / "images", count)
    images, annotations = [], []
    for number in range(count):
        images.append({"id": number, "file_name": f"{number:02d}.png", "height": HEIGHT, "width": WIDTH})
        square = [4 + number, 4, 12 + number, 4, 12 + number, 12, 4 + number, 12]
        rle = mask_api.encode(np.asfortranarray(balls(number)[1].astype(np.uint8)))
        rle["counts"] = rle["counts"].decode()
        for category, segmentation in ((7, [square]), (9, rle)):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category,
                    "segmentation": segmentation,
                    "iscrowd": 0,
                    "area": 64,
                    "bbox": [0, 0, 8, 8],
                }
            )
    content = {"images": images, "annotations": annotations}
    content["categories"] = [{"id": 7, "name": "box"}, {"id": 9, "name": "ball"}]
    (root / "instances.json").write_text(json.dumps(content))
    return {"image_root": str(root / "images"), "json_file": str(root / "instances.json")}


def write_masks(root: Path, count: int) -> dict:
    """Images, and a binary mask per ball in masks/<image>/; the arguments of `register_instances`."""
    write_images(root / "images", count)
    for number in range(count):
        folder = root / "masks" / f"{number:02d}"
        folder.mkdir(parents=True)
        for ball, mask in enumerate(balls(number)):
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{ball}.png")
    return {"image_root": str(root / "images"), "mask_root": str(root / "masks"), "classes": ["ball"]}


def write_id_pictures(root: Path, count: int) -> dict:
    """Images, and one picture each that numbers the balls; the arguments of `register_instances`."""
    write_images(root / "images", count)
    (root / "ids").mkdir()
    for number in range(count):
        ids = np.zeros((HEIGHT, WIDTH), np.int32)
        for ball, mask in enumerate(balls(number)):
            ids[mask] = 300 + ball
        Image.fromarray(ids.astype(np.uint16)).save(root / "ids" / f"{number:02d}.png")
    return {
        "image_root": str(root / "images"),
        "mask_root": str(root / "ids"),
        "mask_values": "ids",
        "classes": ["ball"],
    }


def write_panoptic(root: Path, count: int) -> dict:
    """A COCO panoptic folder; the arguments of `register_panoptic`."""
    write_images(root / "images", count)
    (root / "panoptic").mkdir()
    images, annotations = [], []
    for number in range(count):
        ids = labels(number).astype(np.int32) + 1
        segments = [{"id": 1, "category_id": 1, "iscrowd": 0}, {"id": 2, "category_id": 2, "iscrowd": 0}]
        for ball, mask in enumerate(balls(number)):
            ids[mask] = 1000 + ball
            segments.append({"id": 1000 + ball, "category_id": 3, "iscrowd": 0})
        name = f"{number:02d}.png"
        rgb = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8)
        Image.fromarray(rgb).save(root / "panoptic" / name)
        images.append({"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH})
        annotations.append({"image_id": number, "file_name": name, "segments_info": segments})
    categories = [{"id": i + 1, "name": name, "isthing": int(name == "ball")} for i, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "panoptic.json").write_text(json.dumps(content))
    return {
        "image_root": str(root / "images"),
        "panoptic_root": str(root / "panoptic"),
        "panoptic_json": str(root / "panoptic.json"),
    }

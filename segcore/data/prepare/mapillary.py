"""Mapillary Vistas 1.2, 65 classes: what a download may lack, from its config and its instance PNGs.

config.json                     "labels": [{"readable", "instances", "evaluate", ...}] in the order of the label values
training/instances/NAME.png     16 bit: label * 256 + instance

Downloads of version 1 have `labels` and `panoptic` already; in downloads of version 2 the files of version
1.2 lie one folder deeper (training/v1.2/..., config_v1.2.json). What is missing is made; what is there stays.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator, Sequence

import numpy as np

from ..builtin import builtin_content
from ..panoptic_folder import read_panoptic_json
from .coco import convert_instances
from .labels import ids_to_rgb, image_size, instances_json, panoptic_json, read_labels, segment
from .product import Converted, Job, Product, pair_by_stem

TASKS = ("semantic", "panoptic", "instance")
_FOLDERS = {"train": "training", "val": "validation"}
_CONFIGS = ("config.json", "config_v1.2.json")


def products(root: str, splits: Sequence[str] = ("train", "val"), tasks: Sequence[str] = TASKS) -> Iterator[Product]:
    """What is to be made under `root`, the folder of the data sets; ask for the next when one is made.

    Raises:
        FileNotFoundError: the config or a folder of the download is missing.
        ValueError: the config is of another version.
    """
    base = os.path.join(root, "mapillary_vistas")
    category_of_label = read_config(base)
    for split in splits:
        if "semantic" in tasks:
            yield _semantic(base, split, category_of_label)
        if "panoptic" in tasks:
            yield _panoptic(base, split, category_of_label)
        if "instance" in tasks:
            yield _instance(base, split)


def categories() -> list[dict]:
    """The 65 categories; ids 1 .. 65."""
    return builtin_content("mapillary")["categories"]


def read_config(base: str) -> list[int]:
    """Category id of each label value of the download, 0 for what is not evaluated, from its config.

    Raises:
        FileNotFoundError: there is no config.
        ValueError: its labels are not the 65 classes of version 1.2 in their order.
    """
    paths = [os.path.join(base, name) for name in _CONFIGS]
    path = next((p for p in paths if os.path.isfile(p)), None)
    if path is None:
        raise FileNotFoundError(f"there is neither {paths[0]} nor {paths[1]}; one comes with the download")
    with open(path, encoding="utf-8") as file:
        labels = json.load(file)["labels"]
    evaluated = [label for label in labels if label["evaluate"]]
    known = [(c["name"], bool(c["isthing"])) for c in categories()]
    found = [(label["readable"], bool(label["instances"])) for label in evaluated]
    if found != known:
        first = next((pair for pair in zip(found, known) if pair[0] != pair[1]), (len(found), len(known)))
        raise ValueError(
            f"{path} does not list the 65 classes of Mapillary Vistas 1.2: it has {len(found)}, and differs first "
            f"at {first[0]} (expected {first[1]}); use the files of version 1.2 (config_v1.2.json)"
        )
    numbers = iter(range(1, len(known) + 1))
    return [next(numbers) if label["evaluate"] else 0 for label in labels]


def _pairs(base: str, split: str) -> list[tuple[str, str, str]]:
    folder = os.path.join(base, _FOLDERS[split])
    newer = os.path.join(folder, "v1.2", "instances")
    labels = newer if os.path.isdir(newer) else os.path.join(folder, "instances")
    return pair_by_stem(os.path.join(folder, "images"), labels, ".jpg", ".png")


def _semantic(base: str, split: str, category_of_label: list[int]) -> Product:
    return Product(
        title=f"Mapillary Vistas {split}, semantic",
        jobs=[Job(name, pair) for name, *pair in _pairs(base, split)],
        convert=functools.partial(_convert_semantic, category_of_label),
        png_root=os.path.join(base, _FOLDERS[split], "labels"),
        bytes_per_image=150_000,
    )


def _panoptic(base: str, split: str, category_of_label: list[int]) -> Product:
    folder = os.path.join(base, _FOLDERS[split], "panoptic")
    return Product(
        title=f"Mapillary Vistas {split}, panoptic",
        jobs=[Job(name, pair) for name, *pair in _pairs(base, split)],
        convert=functools.partial(_convert_panoptic, category_of_label),
        png_root=folder,
        json_file=os.path.join(folder, "panoptic_2018.json"),
        assemble=functools.partial(panoptic_json, categories=categories()),
        bytes_per_image=200_000,
    )


def _instance(base: str, split: str) -> Product:
    folder = os.path.join(base, _FOLDERS[split], "panoptic")
    content = read_panoptic_json(os.path.join(folder, "panoptic_2018.json"))
    things = [{"id": c["id"], "name": c["name"]} for c in categories() if c["isthing"]]
    images = {image["id"]: image for image in content["images"]}
    return Product(
        title=f"Mapillary Vistas {split}, instance",
        jobs=[
            Job(
                os.path.splitext(a["file_name"])[0],
                ((os.path.join(folder, a["file_name"]), a["segments_info"]), images[a["image_id"]]),
            )
            for a in content["annotations"]
        ],
        convert=functools.partial(convert_instances, {c["id"] for c in things}, {c["id"] for c in categories()}),
        json_file=os.path.join(base, f"mapillary_vistas_instance_{split}.json"),
        assemble=functools.partial(instances_json, categories=things),
        bytes_per_image=100_000,
    )


def _read(category_of_label: list[int], inputs: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) values of an instance PNG, and (H, W) category ids, 0 = void."""
    image, label = inputs
    values = read_labels(label, image_size(image), 1, bits=16)
    labels = values >> 8
    if labels.max() >= len(category_of_label):
        raise ValueError(f"label {label} has label {labels.max()}; the config lists {len(category_of_label)}, from 0")
    return values, np.asarray(category_of_label)[labels]


def _convert_semantic(category_of_label: list[int], inputs: tuple[str, str]) -> Converted:
    _, found = _read(category_of_label, inputs)
    labels = np.where(found > 0, found - 1, len(categories())).astype(np.uint8)
    return Converted(png=labels, is_void=not found.any())


def _convert_panoptic(category_of_label: list[int], inputs: tuple[str, str]) -> Converted:
    values, found = _read(category_of_label, inputs)
    is_thing = {c["id"]: c["isthing"] for c in categories()}
    ids = np.zeros(values.shape, np.int32)
    segments: list[dict] = []
    for category in np.unique(found[found > 0]).tolist():
        here = found == category
        parts = np.unique(values[here]).tolist() if is_thing[category] else [None]
        for part in parts:
            mask = here if part is None else values == part
            ids[mask] = len(segments) + 1
            segments.append(segment(len(segments) + 1, category, mask))
    name = os.path.splitext(os.path.basename(inputs[0]))[0]
    height, width = values.shape
    image = {"id": name, "file_name": f"{name}.jpg", "width": width, "height": height}
    annotation = {"image_id": name, "file_name": f"{name}.png", "segments_info": segments}
    return Converted(ids_to_rgb(ids), {"image": image, "annotation": annotation}, is_void=not segments)

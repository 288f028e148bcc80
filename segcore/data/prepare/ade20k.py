"""ADE20K: class-index PNGs, instances and panoptic labels from the scene-parsing and instance downloads.

annotations/SPLIT/*.png             one channel: 0 void, 1 .. 150 classes
annotations_instance/SPLIT/*.png    R: class among the 100 things, counted from 1; G: instance, 0 none
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence

import numpy as np

from ..builtin import builtin_content
from .labels import ids_to_rgb, image_size, instance, instances_json, panoptic_json, read_labels, segment
from .product import Converted, Job, Product, pair_by_stem

_BASE = "ADEChallengeData2016"
_FOLDERS = {"train": "training", "val": "validation"}
TASKS = ("semantic", "instance", "panoptic")
_VOID = 255


def products(root: str, splits: Sequence[str] = ("train", "val"), tasks: Sequence[str] = TASKS) -> Iterator[Product]:
    """What is to be made under `root`, the folder of the data sets.

    Raises:
        FileNotFoundError: a folder of the download is missing.
        ValueError: labels without images.
    """
    for split in splits:
        for task in tasks:
            yield _PRODUCTS[task](os.path.join(root, _BASE), split)


def categories() -> list[dict]:
    """The 150 categories; ids 0 .. 149."""
    return builtin_content("ade20k")["categories"]


def thing_ids() -> list[int]:
    """The category id of each of the instance files' classes 1, 2, ...: the things in order."""
    return [c["id"] for c in categories() if c["isthing"]]


def _pairs(base: str, split: str, labels: str) -> list[tuple[str, str, str]]:
    folder = _FOLDERS[split]
    return pair_by_stem(os.path.join(base, "images", folder), os.path.join(base, labels, folder), ".jpg", ".png")


def _semantic(base: str, split: str) -> Product:
    return Product(
        title=f"ADE20K {split}, semantic",
        jobs=[Job(name, (image, label)) for name, image, label in _pairs(base, split, "annotations")],
        convert=_convert_semantic,
        png_root=_made(os.path.join(base, "annotations_detectron2", _FOLDERS[split])),
        bytes_per_image=20_000,
    )


def _instance(base: str, split: str) -> Product:
    things = [{"id": c["id"], "name": c["name"]} for c in categories() if c["isthing"]]
    return Product(
        title=f"ADE20K {split}, instance",
        jobs=[Job(name, pair) for name, *pair in _pairs(base, split, "annotations_instance")],
        convert=_convert_instance,
        json_file=os.path.join(base, f"ade20k_instance_{split}.json"),
        assemble=functools.partial(instances_json, categories=things),
        bytes_per_image=20_000,
    )


def _panoptic(base: str, split: str) -> Product:
    instances = {name: label for name, _, label in _pairs(base, split, "annotations_instance")}
    return Product(
        title=f"ADE20K {split}, panoptic",
        jobs=[Job(name, (image, label, instances[name])) for name, image, label in _pairs(base, split, "annotations")],
        convert=_convert_panoptic,
        png_root=os.path.join(base, f"ade20k_panoptic_{split}"),
        json_file=os.path.join(base, f"ade20k_panoptic_{split}.json"),
        assemble=functools.partial(panoptic_json, categories=categories()),
        bytes_per_image=30_000,
    )


_PRODUCTS = {"semantic": _semantic, "instance": _instance, "panoptic": _panoptic}


def _made(folder: str) -> str:
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    return folder


def _convert_semantic(inputs: tuple[str, str]) -> Converted:
    image, label = inputs
    classes = _classes(label, image_size(image))
    return Converted(png=classes, is_void=(classes == _VOID).all())


def _classes(label: str, size: tuple[int, int]) -> np.ndarray:
    """(H, W) uint8 class indices, 255 = void."""
    classes = read_labels(label, size, 1) - np.uint8(1)  # 0, void, becomes 255
    wrong = np.unique(classes[(classes >= len(categories())) & (classes != _VOID)])
    if wrong.size:
        raise ValueError(f"label {label} has values {(wrong[:10] + 1).tolist()}; expected 0 .. {len(categories())}")
    return classes


def _things(label: str, size: tuple[int, int]) -> Iterator[tuple[int, np.ndarray]]:
    """(category id, (H, W) mask) of each instance of a file, in the order of their numbers."""
    values = read_labels(label, size, 3)
    classes, numbers = values[..., 0], values[..., 1]
    for number in np.unique(numbers[numbers > 0]).tolist():
        mask = numbers == number
        found = np.unique(classes[mask]).tolist()
        if len(found) != 1:
            raise ValueError(f"label {label}: instance {number} has several classes, {found}; one is expected")
        if not 1 <= found[0] <= len(thing_ids()):
            raise ValueError(f"label {label}: instance {number} has class {found[0]}; expected 1 .. {len(thing_ids())}")
        yield thing_ids()[found[0] - 1], mask


def _image_record(image: str, size: tuple[int, int]) -> dict:
    name = os.path.basename(image)
    return {"id": os.path.splitext(name)[0], "file_name": name, "width": size[1], "height": size[0]}


def _convert_instance(inputs: tuple[str, str]) -> Converted:
    image, label = inputs
    size = image_size(image)
    annotations = [instance(category, mask) for category, mask in _things(label, size)]
    return Converted(record={"image": _image_record(image, size), "annotations": annotations})


def _convert_panoptic(inputs: tuple[str, str, str]) -> Converted:
    """Stuff from the semantic label, things from the instances, which lie on top.

    A stuff segment keeps the area that it has before things are laid over it, as in the files that
    published numbers were measured with.
    """
    image, label, instances = inputs
    size = image_size(image)
    classes = _classes(label, size)
    is_thing = {c["id"]: c["isthing"] for c in categories()}
    ids = np.zeros(size, np.int32)
    segments: list[dict] = []

    def lay(category: int, mask: np.ndarray) -> None:
        number = len(segments) + 1
        ids[mask] = number
        segments.append(segment(number, category, mask))

    for category in np.unique(classes).tolist():
        if category != _VOID and not is_thing[category]:
            lay(category, classes == category)
    for category, mask in _things(instances, size):
        lay(category, mask)
    record = _image_record(image, size)
    annotation = {"image_id": record["id"], "file_name": f"{record['id']}.png", "segments_info": segments}
    return Converted(ids_to_rgb(ids), {"image": record, "annotation": annotation}, is_void=not segments)

"""COCO: label PNGs and instances from the panoptic annotations."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence

import numpy as np

from ..builtin import builtin_content
from ..panoptic_folder import read_panoptic_json
from .labels import instance, instances_json, read_panoptic
from .product import Converted, Job, Product

TASKS = ("semantic", "instance")
_VOID = 255


def products(root: str, splits: Sequence[str] = ("train", "val"), tasks: Sequence[str] = TASKS) -> Iterator[Product]:
    """What is to be made under `root`, the folder of the data sets; instances of the val split only.

    (The train split comes with its own instance annotations.)

    Raises:
        FileNotFoundError: a panoptic JSON is missing.
        ValueError: a panoptic JSON that is none.
    """
    base = os.path.join(root, "coco")
    for split in splits:
        content = read_panoptic_json(os.path.join(base, "annotations", f"panoptic_{split}2017.json"))
        panoptic_root = os.path.join(base, f"panoptic_{split}2017")
        if "semantic" in tasks:
            yield _semantic(base, split, content, panoptic_root)
        if "instance" in tasks and split == "val":
            yield _instance(base, split, content, panoptic_root)


def _semantic(base: str, split: str, content: dict, panoptic_root: str) -> Product:
    index = {c["id"]: i for i, c in enumerate(builtin_content("coco")["categories"])}
    return Product(
        title=f"COCO {split}2017, semantic",
        jobs=_jobs(content, panoptic_root),
        convert=functools.partial(_convert_semantic, index),
        png_root=os.path.join(base, f"panoptic_semseg_{split}2017"),
        bytes_per_image=12_000,
    )


def _instance(base: str, split: str, content: dict, panoptic_root: str) -> Product:
    known = builtin_content("coco")["categories"]
    things = [{k: c[k] for k in ("supercategory", "id", "name") if k in c} for c in known if c["isthing"]]
    images = {image["id"]: image for image in content["images"]}
    jobs = [
        Job(job.name, (job.inputs, images[annotation["image_id"]]))
        for job, annotation in zip(_jobs(content, panoptic_root), content["annotations"])
    ]
    return Product(
        title=f"COCO {split}2017, instance",
        jobs=jobs,
        convert=functools.partial(convert_instances, {c["id"] for c in things}, {c["id"] for c in known}),
        json_file=os.path.join(base, "annotations", f"panoptic2instances_{split}2017.json"),
        assemble=functools.partial(instances_json, categories=things),
        bytes_per_image=12_000,
    )


def _jobs(content: dict, panoptic_root: str) -> list[Job]:
    return [
        Job(
            os.path.splitext(annotation["file_name"])[0],
            (os.path.join(panoptic_root, annotation["file_name"]), annotation["segments_info"]),
        )
        for annotation in content["annotations"]
    ]


def _convert_semantic(index: dict[int, int], inputs: tuple[str, list[dict]]) -> Converted:
    path, segments = inputs
    _check_categories(path, segments, index)
    ids = read_panoptic(path, segments)
    labels = np.full(ids.shape, _VOID, np.uint8)
    for entry in segments:
        labels[ids == entry["id"]] = index[entry["category_id"]]
    return Converted(png=labels, is_void=(labels == _VOID).all())


def convert_instances(things: set[int], known: set[int], inputs: tuple[tuple[str, list[dict]], dict]) -> Converted:
    (path, segments), image = inputs
    _check_categories(path, segments, known)
    ids = read_panoptic(path, segments)
    annotations = []
    for entry in segments:
        if entry["category_id"] not in things:
            continue
        mask = ids == entry["id"]
        if not mask.any():
            raise ValueError(f"{path} does not show segment {entry['id']}, which its JSON lists")
        annotations.append(instance(entry["category_id"], mask, entry.get("iscrowd", 0)))
    record = {k: image[k] for k in ("id", "file_name", "width", "height")}
    return Converted(record={"image": record, "annotations": annotations})


def _check_categories(path: str, segments: list[dict], known) -> None:
    for entry in segments:
        if entry["category_id"] not in known:
            raise ValueError(
                f"{path}: segment {entry['id']} has category {entry['category_id']}, which is none of COCO's "
                f"{len(known)}"
            )

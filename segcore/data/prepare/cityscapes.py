"""Cityscapes: panoptic labels by cityscapesscripts, and class-index PNGs beside the originals.

The panoptic files have the bytes that `csCreatePanopticImgs` writes; what is added is that images are
converted in parallel, and that a killed run goes on.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import tempfile
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from ..cityscapes_tools import cityscapes_labels, require_cityscapesscripts
from .labels import read_labels
from .product import Converted, Job, Product

TASKS = ("panoptic", "semantic")
_IGNORED = 255


def products(root: str, splits: Sequence[str] = ("train", "val"), tasks: Sequence[str] = TASKS) -> Iterator[Product]:
    """What is to be made under `root`, the folder of the data sets.

    Raises:
        ImportError: cityscapesscripts is not installed.
        FileNotFoundError: a folder of the download is missing.
    """
    require_cityscapesscripts("preparing Cityscapes")
    base = os.path.join(root, "cityscapes", "gtFine")
    for split in splits:
        if "panoptic" in tasks:
            yield _panoptic(base, split)
        if "semantic" in tasks:
            yield _semantic(base, split)


def _files(base: str, split: str, suffix: str) -> list[str]:
    """Paths under the split's folder, sorted: CITY/CITY_SEQUENCE_FRAME_gtFine_<suffix>."""
    folder = os.path.join(base, split)
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{folder} does not exist; datasets/README.md shows the expected tree")
    return sorted(
        os.path.join(city, name)
        for city in os.listdir(folder)
        if os.path.isdir(os.path.join(folder, city))
        for name in os.listdir(os.path.join(folder, city))
        if name.endswith(f"_gtFine_{suffix}.png")
    )


def _panoptic(base: str, split: str) -> Product:
    files = _files(base, split, "instanceIds")
    return Product(
        title=f"Cityscapes {split}, panoptic",
        jobs=[
            Job(os.path.basename(name).replace("_instanceIds.png", "_panoptic"), os.path.join(base, split, name))
            for name in files
        ],
        convert=_convert_panoptic,
        png_root=os.path.join(base, f"cityscapes_panoptic_{split}"),
        json_file=os.path.join(base, f"cityscapes_panoptic_{split}.json"),
        assemble=_assemble,
        dump={"sort_keys": True, "indent": 4},
        bytes_per_image=60_000,
    )


def _semantic(base: str, split: str) -> Product:
    files = _files(base, split, "labelIds")
    return Product(
        title=f"Cityscapes {split}, semantic",
        jobs=[Job(name.replace("_labelIds.png", "_labelTrainIds"), os.path.join(base, split, name)) for name in files],
        convert=functools.partial(_convert_semantic, _train_ids()),
        png_root=os.path.join(base, split),
        in_place=True,
        bytes_per_image=40_000,
    )


def _convert_panoptic(path: str) -> Converted:
    """cityscapesscripts' own conversion, shown one image at a time."""
    from cityscapesscripts.preparation.createPanopticImgs import convert2panoptic

    values = read_labels(path, None, 1, bits=16)
    known = {label.id for label in cityscapes_labels() if label.id >= 0}
    found = {v // 1000 if v >= 1000 else v for v in np.unique(values).tolist()}
    if found - known:
        raise ValueError(f"label {path} has label ids {sorted(found - known)}, which Cityscapes does not define")
    with tempfile.TemporaryDirectory() as folder:
        city = os.path.join(folder, "split", "city")
        os.makedirs(city)
        os.symlink(os.path.abspath(path), os.path.join(city, os.path.basename(path)))
        with contextlib.redirect_stdout(io.StringIO()):
            convert2panoptic(folder, folder, False, ["split"])
        with open(os.path.join(folder, "cityscapes_panoptic_split.json"), encoding="utf-8") as file:
            content = json.load(file)
        (annotation,) = content["annotations"]
        with Image.open(os.path.join(folder, "cityscapes_panoptic_split", annotation["file_name"])) as picture:
            png = np.array(picture)
    return Converted(png=png, record=content, is_void=not annotation["segments_info"])


def _assemble(records: list[dict]) -> dict:
    return {
        "images": [image for record in records for image in record["images"]],
        "annotations": [annotation for record in records for annotation in record["annotations"]],
        "categories": records[0]["categories"],
    }


def _train_ids() -> np.ndarray:
    """(256,) uint8: label id -> class index, 255 for labels that are not evaluated, 254 for ids of no label."""
    table = np.full(256, 254, np.uint8)
    for label in cityscapes_labels():
        if label.id >= 0:
            table[label.id] = _IGNORED if label.ignoreInEval else label.trainId
    return table


def _convert_semantic(table: np.ndarray, path: str) -> Converted:
    values = read_labels(path, None, 1)
    labels = table[values]
    wrong = np.unique(values[labels == 254])
    if wrong.size:
        raise ValueError(f"label {path} has label ids {wrong[:10].tolist()}, which Cityscapes does not define")
    return Converted(png=labels, is_void=(labels == _IGNORED).all())

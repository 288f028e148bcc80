"""What the Cityscapes evaluation reads: a PNG of label ids, and a list of objects with a PNG for each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from segcore.checkpoint.files import atomic_path

from .shapes import Shape


def write_labels(path: Path, shapes: Sequence[Shape], size: tuple[int, int], file_name: str) -> None:
    """Write (H, W) label ids as 8-bit grey PNG; 0 ("unlabeled") where no shape is.

    Raises:
        ValueError: for a class that is none of Cityscapes'.
    """
    labels = np.zeros(size, np.uint8)
    for shape in reversed(shapes):
        labels[shape.mask] = label_id(shape.name)
    _write_png(path, labels)


def write_objects(path: Path, shapes: Sequence[Shape], size: tuple[int, int], file_name: str) -> None:
    """Write NAME.txt, a line "NAME_0.png LABEL_ID SCORE" per object, and the masks (255 on 0) beside it.

    The text comes last: where it is, all of its masks are.

    Raises:
        ValueError: for a class that is none of Cityscapes'.
    """
    lines = []
    ids = [label_id(shape.name) for shape in shapes]
    for number, (shape, id_) in enumerate(zip(shapes, ids)):
        mask_path = path.with_name(f"{path.stem}_{number}.png")
        _write_png(mask_path, shape.mask.astype(np.uint8) * 255)
        lines.append(f"{mask_path.name} {id_} {1.0 if shape.score is None else shape.score:.6f}\n")
    with atomic_path(path) as temporary:
        Path(temporary).write_text("".join(lines), encoding="utf-8")


def label_id(name: str) -> int:
    """Cityscapes' label id of a class name.

    Raises:
        ValueError: for a class that is none of Cityscapes'.
    """
    known = _label_ids()
    if name not in known:
        raise ValueError(
            f"the class {name!r} is none of Cityscapes' ({', '.join(known)}); use weights that were trained on "
            "Cityscapes, or another format"
        )
    return known[name]


def known_classes() -> frozenset[str]:
    """The class names of Cityscapes."""
    return frozenset(_label_ids())


@cache
def _label_ids() -> dict[str, int]:
    text = resources.files("segcore.data").joinpath("builtin_sets", "cityscapes.json").read_text(encoding="utf-8")
    return {category["name"]: category["id"] for category in json.loads(text)["categories"]}


def _write_png(path: Path, values: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        Image.fromarray(values).save(temporary, format="PNG")

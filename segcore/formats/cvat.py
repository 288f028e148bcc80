"""CVAT's XML ("CVAT for images 1.1"), one file per picture, with masks as runs inside of their boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from segcore.checkpoint.files import atomic_path

from .shapes import Shape


def document(shapes: Sequence[Shape], size: tuple[int, int], file_name: str) -> ElementTree.Element:
    """The XML of one picture; the first shape is on top (CVAT's z_order).

    Args:
        shapes: of the picture.
        size: (height, width) of the picture, pixels.
        file_name: of the picture, as the CVAT task calls it.
    """
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    labels = ElementTree.SubElement(
        ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task"), "labels"
    )
    for name, color in {shape.name: shape.color for shape in shapes}.items():
        label = ElementTree.SubElement(labels, "label")
        ElementTree.SubElement(label, "name").text = name
        ElementTree.SubElement(label, "color").text = "#{:02x}{:02x}{:02x}".format(*color)
        ElementTree.SubElement(label, "attributes")
    picture = ElementTree.SubElement(
        root, "image", {"id": "0", "name": file_name, "width": str(size[1]), "height": str(size[0])}
    )
    for order, shape in enumerate(reversed(shapes)):
        picture.append(_mask(shape, order))
    return root


def write(path: Path, shapes: Sequence[Shape], size: tuple[int, int], file_name: str) -> None:
    """Write one picture's file, whole or not at all."""
    with atomic_path(path) as temporary:
        tree = ElementTree.ElementTree(document(shapes, size, file_name))
        tree.write(temporary, encoding="utf-8", xml_declaration=True)


def _mask(shape: Shape, order: int) -> ElementTree.Element:
    x0, y0, x1, y1 = shape.box
    return ElementTree.Element(
        "mask",
        {
            "label": shape.name,
            "source": "auto",
            "occluded": "0",
            "rle": ", ".join(map(str, runs(shape.crop))),
            "left": str(x0),
            "top": str(y0),
            "width": str(x1 - x0),
            "height": str(y1 - y0),
            "z_order": str(order),
        },
    )


def runs(mask: np.ndarray) -> list[int]:
    """Lengths of the runs of a (h, w) bool mask, row by row, in turn off and on, off first."""
    flat = np.concatenate([[False], mask.ravel(), [not mask.ravel()[-1]]])
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], ends])).tolist()

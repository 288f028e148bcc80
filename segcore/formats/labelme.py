"""labelme's JSON, one file per picture; masks as its "mask" shapes, which are exact and may have holes."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from segcore.checkpoint.files import atomic_path

from .shapes import Shape

_FORMAT_VERSION = "5.5.0"  # the first labelme whose description and mask fields are those written here


def document(shapes: Sequence[Shape], size: tuple[int, int], file_name: str) -> dict[str, Any]:
    """The file's content; put the file beside the picture to open both.

    Args:
        shapes: of one picture; group_id is a shape's number, so that parts of one object stay together.
        size: (height, width) of the picture, pixels.
        file_name: of the picture, relative to the file.
    """
    return {
        "version": _FORMAT_VERSION,
        "flags": {},
        "shapes": [_shape(shape) for shape in shapes],
        "imagePath": file_name,
        "imageData": None,
        "imageHeight": size[0],
        "imageWidth": size[1],
    }


def write(path: Path, shapes: Sequence[Shape], size: tuple[int, int], file_name: str) -> None:
    """Write one picture's file, whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as stream:
        json.dump(document(shapes, size, file_name), stream, ensure_ascii=False, indent=1)


def _shape(shape: Shape) -> dict[str, Any]:
    x0, y0, x1, y1 = shape.box
    png = io.BytesIO()
    Image.fromarray(shape.crop).save(png, format="PNG")
    return {
        "label": shape.name,
        "points": [[x0, y0], [x1 - 1, y1 - 1]],  # labelme counts the last pixel in
        "group_id": shape.number,
        "description": "" if shape.score is None else f"score {shape.score:.4f}",
        "shape_type": "mask",
        "flags": {},
        "mask": base64.b64encode(png.getvalue()).decode("ascii"),
    }

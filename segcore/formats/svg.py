"""SVG: a path per mask, which shows its name when the pointer rests on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from segcore.checkpoint.files import atomic_path

from .outlines import mask_polygons
from .shapes import Shape


def drawing(shapes: Sequence[Shape], size: tuple[int, int], opacity: float = 0.6) -> str:
    """The SVG of one picture's masks.

    Args:
        shapes: the first is drawn on top.
        size: (height, width) of the picture, pixels.
        opacity: of the colours, 0..1.

    Returns:
        The document. A path has data-name, data-category-id, data-number and, for objects, data-score.
    """
    height, width = size
    paths = "\n".join(_path(shape) for shape in reversed(shapes))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" fill-rule="evenodd" fill-opacity="{opacity:g}">\n{paths}\n</svg>\n'
    )


def write(path: Path, shapes: Sequence[Shape], size: tuple[int, int], file_name: str) -> None:
    """Write the drawing of one picture, whole or not at all."""
    with atomic_path(path) as temporary:
        Path(temporary).write_text(drawing(shapes, size), encoding="utf-8")


def _path(shape: Shape) -> str:
    data = "".join(_commands(ring) for polygon in mask_polygons(shape.mask) for ring in polygon.rings)
    score = "" if shape.score is None else f' data-score="{shape.score:.4f}"'
    title = shape.name if shape.score is None else f"{shape.name} {shape.score:.0%}"
    color = "#{:02x}{:02x}{:02x}".format(*shape.color)
    return (
        f'<path fill="{color}" data-number="{shape.number}" data-category-id="{shape.category_id}" '
        f'data-name={quoteattr(shape.name)}{score} d="{data}"><title>{escape(title)}</title></path>'
    )


def _commands(ring: np.ndarray) -> str:
    """Rings have level and upright sides only, in turn: H and V say one number each."""
    (x, y), rest = ring[0], ring[1:]
    words = [f"M{x} {y}"]
    previous = (x, y)
    for px, py in rest.tolist():
        words.append(f"H{px}" if py == previous[1] else f"V{py}")
        previous = (px, py)
    return "".join(words) + "Z"

"""GeoJSON (RFC 7946): a feature per mask, in pixels or, with the picture's transform, on a map."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segcore.checkpoint.files import atomic_path

from .outlines import mask_polygons
from .shapes import Shape

Transform = Sequence[float]


def feature_collection(shapes: Sequence[Shape], transform: Transform | None = None) -> dict[str, Any]:
    """Features with the properties id, name, category_id, isthing, color, area (pixels) and, for objects, score.

    Args:
        shapes: of one picture.
        transform: (a, b, c, d, e, f) of the map: X = a x + b y + c, Y = d x + e y + f, with x, y in pixels
            from the upper left corner; the order of rasterio's and affine's transforms. None leaves pixels.

    Returns:
        A GeoJSON dict. Rings follow the right-hand rule; each is closed.

    Raises:
        ValueError: for a transform that is not six numbers.
    """
    if transform is not None and len(transform) < 6:
        raise ValueError(f"a transform is six numbers a, b, c, d, e, f; got {list(transform)}")
    return {"type": "FeatureCollection", "features": [_feature(shape, transform) for shape in shapes]}


def write(path: Path, shapes: Sequence[Shape], size: tuple[int, int], file_name: str) -> None:
    """Write the features of one picture, whole or not at all."""
    document = {**feature_collection(shapes), "image": {"file_name": file_name, "height": size[0], "width": size[1]}}
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as stream:
        json.dump(document, stream, ensure_ascii=False)


def _feature(shape: Shape, transform: Transform | None) -> dict[str, Any]:
    polygons = [[_ring(ring, transform) for ring in polygon.rings] for polygon in mask_polygons(shape.mask)]
    single = len(polygons) == 1
    properties = {
        "name": shape.name,
        "category_id": shape.category_id,
        "isthing": shape.isthing,
        "color": "#{:02x}{:02x}{:02x}".format(*shape.color),
        "area": int(shape.mask.sum()),
    }
    if shape.score is not None:
        properties["score"] = round(shape.score, 6)
    return {
        "type": "Feature",
        "id": shape.number,
        "properties": properties,
        "geometry": {
            "type": "Polygon" if single else "MultiPolygon",
            "coordinates": polygons[0] if single else polygons,
        },
    }


def _ring(points: np.ndarray, transform: Transform | None) -> list[list[float]]:
    if transform is not None:
        a, b, c, d, e, f = transform[:6]
        x, y = points[:, 0], points[:, 1]
        mapped = np.stack([a * x + b * y + c, d * x + e * y + f], 1)
        # A map whose y points up mirrors the ring; the right-hand rule turns it round again.
        points = mapped if a * e - b * d > 0 else mapped[::-1]
    return [*points.tolist(), points[0].tolist()]

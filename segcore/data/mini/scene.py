"""One scene of `mini`: a ground, and things on it from far to near, so that the near hide the far."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from . import ground, things
from .light import Sun, draw_sun, photograph

# Ids leave gaps, as they do in real data sets: whoever takes an id for an index is found out.
CATEGORIES = (
    {"id": 1, "name": "sky", "isthing": 0, "color": [96, 160, 230]},
    {"id": 2, "name": "grass", "isthing": 0, "color": [110, 170, 60]},
    {"id": 3, "name": "road", "isthing": 0, "color": [128, 116, 128]},
    {"id": 5, "name": "water", "isthing": 0, "color": [30, 90, 160]},
    {"id": 11, "name": "ball", "isthing": 1, "color": [230, 60, 60]},
    {"id": 12, "name": "box", "isthing": 1, "color": [200, 140, 40]},
    {"id": 13, "name": "cone", "isthing": 1, "color": [250, 200, 40]},
    {"id": 17, "name": "tree", "isthing": 1, "color": [20, 110, 60]},
    {"id": 18, "name": "car", "isthing": 1, "color": [150, 60, 190]},
)
HEIGHT, WIDTH = 128, 160
_OVERSAMPLING = 2  # painted finer, so that edges mix as they do in a photograph
_MIN_PIXELS = 64  # what shows less of itself is void
_VOID = 0
_STUFF_IDS = {ground.SKY: 1, ground.GRASS: 2, ground.ROAD: 3, ground.WATER: 5}


class _Kind(NamedTuple):
    """How a thing is painted, and where it stands.

    `heights` and `half_width` are in image heights at the bottom edge, and in own heights;
    `nearness` is the range of places.
    """

    category_id: int
    paint: things.Painter
    heights: tuple[float, float]
    half_width: float
    nearness: tuple[float, float]


_KINDS = (
    _Kind(11, things.ball, (0.36, 0.52), 0.52, (0.50, 0.95)),
    _Kind(12, things.box, (0.36, 0.50), 1.05, (0.50, 0.95)),
    _Kind(13, things.cone, (0.46, 0.66), 0.44, (0.50, 0.95)),
    _Kind(17, things.tree, (0.95, 1.40), 0.45, (0.35, 0.70)),
    _Kind(18, things.car, (0.36, 0.48), 1.35, (0.45, 0.90)),
)
_UNLABELLED = (
    _Kind(_VOID, things.stone, (0.15, 0.3), 0.65, (0.2, 0.9)),
    _Kind(_VOID, things.post, (0.5, 0.8), 0.18, (0.2, 0.8)),
)


class Scene(NamedTuple):
    """`image` (H, W, 3) uint8 RGB; `ids` (H, W) int32 segment ids, 0 void; `segments` as in COCO panoptic."""

    image: np.ndarray
    ids: np.ndarray
    segments: list[dict]


class _Placed(NamedTuple):
    kind: _Kind
    segment: int
    x: float  # of the foot, in image widths
    nearness: float
    height: float  # in image heights


def draw_scene(*seed: int) -> Scene:
    """The scene of a seed; equal seeds give equal scenes."""
    rng = np.random.default_rng(seed)
    scale = _OVERSAMPLING
    base = ground.draw_ground(rng, HEIGHT * scale, WIDTH * scale)
    sun = draw_sun(rng)
    placed, segments = _place(rng)
    ids = np.zeros(base.labels.shape, np.int32)
    for label, category in _STUFF_IDS.items():
        segment = len(segments) + 1
        segments[segment] = {"category_id": category, "iscrowd": 0}
        ids[base.labels == label] = segment
    canvas = base.canvas
    for one in sorted(placed, key=lambda p: p.nearness):
        _paint(rng, canvas, ids, base.horizon, one, sun)
    small = canvas.reshape(HEIGHT, scale, WIDTH, scale, 3).mean((1, 3))
    return Scene(photograph(rng, small), *_number(rng, ids[::scale, ::scale], segments))


def _place(rng: np.random.Generator) -> tuple[list[_Placed], dict[int, dict]]:
    """Groups of things of a kind, sometimes a crowd, sometimes something unlabelled."""
    placed: list[_Placed] = []
    segments: dict[int, dict] = {}
    groups = rng.choice(len(_KINDS), rng.integers(1, 4), replace=False)
    for kind in (_KINDS[g] for g in groups):
        x, nearness = rng.uniform(0.1, 0.9), rng.uniform(*kind.nearness)
        for _ in range(rng.integers(1, 4)):
            segment = len(segments) + 1
            segments[segment] = {"category_id": kind.category_id, "iscrowd": 0}
            placed.append(_stand(rng, kind, segment, x, nearness, spread=0.42))
    if rng.random() < 0.3:
        kind = _KINDS[rng.choice([0, 1, 2, 3])]
        segment = len(segments) + 1
        segments[segment] = {"category_id": kind.category_id, "iscrowd": 1}
        x = rng.uniform(0.15, 0.85)
        for _ in range(rng.integers(7, 12)):
            placed.append(_stand(rng, kind, segment, x, kind.nearness[0] * 0.8, spread=0.1))
    for _ in range(rng.integers(0, 3)):
        kind = _UNLABELLED[rng.integers(len(_UNLABELLED))]
        placed.append(_stand(rng, kind, _VOID, rng.uniform(0, 1), rng.uniform(*kind.nearness), spread=0))
    return placed, segments


def _stand(rng, kind: _Kind, segment: int, x: float, nearness: float, spread: float) -> _Placed:
    """Somewhere within `spread` of a place; what is farther away is smaller."""
    x = float(np.clip(x + rng.uniform(-spread, spread), 0.02, 0.98))
    nearness = float(np.clip(nearness * rng.uniform(0.8, 1.3), 0.1, 0.97))
    return _Placed(kind, segment, x, nearness, rng.uniform(*kind.heights) * nearness)


def _paint(rng, canvas: np.ndarray, ids: np.ndarray, horizon: int, one: _Placed, sun: Sun) -> None:
    """Paint one thing and its shadow, in place."""
    rows, columns = ids.shape
    foot = horizon + one.nearness * (rows - horizon)
    middle, height = one.x * columns, one.height * rows
    _cast_shadow(canvas, horizon, foot, middle, height, one.kind.half_width, sun)
    top, bottom = max(int(foot - height), 0), min(int(foot) + 1, rows)
    reach = height * one.kind.half_width
    left, right = max(int(middle - reach), 0), min(int(middle + reach) + 1, columns)
    v = (foot - np.arange(top, bottom) - 0.5)[:, None] / height
    u = (np.arange(left, right) + 0.5 - middle)[None] / height
    u, v = np.broadcast_arrays(u, v)
    inside, colours = one.kind.paint(rng, u, v, sun)
    inside = inside & (v >= 0) & (v <= 1)
    canvas[top:bottom, left:right][inside] = np.clip(colours[inside], 0, 1)
    ids[top:bottom, left:right][inside] = one.segment


def _cast_shadow(canvas, horizon: int, foot: float, middle: float, height: float, half_width: float, sun: Sun) -> None:
    """Darken an ellipse on the ground, on the side away from the sun."""
    rows, columns = canvas.shape[:2]
    length = height * (0.5 + 0.5 * abs(sun.direction[0]))
    centre = middle - np.sign(sun.direction[0]) * length * 0.5
    long, short = length * 0.5 + half_width * height * 0.7, 0.14 * height + 1
    edge = 1.3  # in semi-axes; the shadow fades from 0.3 to here
    top, bottom = max(int(foot - edge * short), horizon), min(int(foot + edge * short) + 2, rows)
    left, right = max(int(centre - edge * long), 0), min(int(centre + edge * long) + 2, columns)
    if top >= bottom or left >= right:
        return
    y = (np.arange(top, bottom) - foot)[:, None] / short
    x = (np.arange(left, right) - centre)[None] / long
    depth = np.clip(edge - np.sqrt(x * x + y * y), 0, 1)[..., None]
    canvas[top:bottom, left:right] *= 1 - (0.75 - sun.ambient * 0.5) * depth


def _number(rng, ids: np.ndarray, segments: dict[int, dict]) -> tuple[np.ndarray, list[dict]]:
    """Give the segments that can be seen new ids, spread over 24 bits, and describe them."""
    final = np.zeros_like(ids)
    described = []
    count = len(segments)
    new_ids = (np.arange(count) << 17) + rng.integers(1, 1 << 17, count)  # all different
    for segment, facts in segments.items():
        mask = ids == segment
        area = int(mask.sum())
        if area < _MIN_PIXELS:
            continue
        new_id = int(new_ids[segment - 1])
        final[mask] = new_id
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        bbox = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        described.append({"id": new_id, **facts, "area": area, "bbox": [int(b) for b in bbox]})
    return final, described

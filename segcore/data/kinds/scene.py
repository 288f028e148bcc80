"""One scene: a ground, and on it things of several kinds, each kind once or a few times.

A kind is a shape, a texture and a pair of colours: 12 x 8 x 10 of them. A fifth of the combinations is held
out: every shape, texture and colour is seen in training, these combinations never.
"""

from __future__ import annotations

import colorsys
from typing import NamedTuple

import numpy as np

from ..drawn import Scene, number_segments
from ..mini.ground import draw_ground
from ..mini.light import cloud_noise, photograph
from .shapes import SHAPES
from .textures import TEXTURES

SIDE = 80
_OVERSAMPLING = 2
_MIN_PIXELS = 48
# Hue, saturation, value of a first and a second colour.
_COLOURS = (
    ((0.00, 0.85, 0.85), (0.13, 0.75, 0.95)),  # red, amber
    ((0.07, 0.90, 0.95), (0.62, 0.70, 0.50)),  # orange, navy
    ((0.15, 0.85, 0.95), (0.83, 0.60, 0.60)),  # yellow, plum
    ((0.33, 0.75, 0.60), (0.16, 0.30, 0.95)),  # green, cream
    ((0.48, 0.80, 0.75), (0.95, 0.70, 0.80)),  # turquoise, crimson
    ((0.58, 0.70, 0.95), (0.00, 0.00, 0.95)),  # sky blue, white
    ((0.67, 0.85, 0.75), (0.12, 0.90, 1.00)),  # blue, gold
    ((0.77, 0.65, 0.75), (0.40, 0.60, 0.85)),  # violet, mint
    ((0.90, 0.55, 0.95), (0.55, 0.80, 0.45)),  # pink, petrol
    ((0.00, 0.00, 0.92), (0.00, 0.00, 0.15)),  # white, black
)
_COLOUR_NAMES = ("red", "orange", "yellow", "green", "turquoise", "sky", "blue", "violet", "pink", "white")


class Kind(NamedTuple):
    """Indices into SHAPES, TEXTURES and the colour pairs."""

    shape: int
    texture: int
    colour: int

    @property
    def held_out(self) -> bool:
        return (self.shape + 2 * self.texture + 3 * self.colour) % 5 == 0


KINDS = tuple(
    Kind(s, t, c) for s in range(len(SHAPES)) for t in range(len(TEXTURES)) for c in range(len(_COLOURS))
)
_THINGS = tuple(
    {
        "id": i + 1,
        "name": f"{_COLOUR_NAMES[k.colour]} {TEXTURES[k.texture].__name__} {SHAPES[k.shape].__name__}",
        "isthing": 1,
    }
    for i, k in enumerate(KINDS)
)
CATEGORIES = (*_THINGS, {"id": len(KINDS) + 1, "name": "ground", "isthing": 0})
SEEN = tuple(i for i, k in enumerate(KINDS) if not k.held_out)
HELD_OUT = tuple(i for i, k in enumerate(KINDS) if k.held_out)


def kind_named(name: str) -> int:
    """The index into `CATEGORIES` of "red stripes star": colour, texture and shape.

    Raises:
        ValueError: if no kind has this name.
    """
    names = [c["name"] for c in CATEGORIES[: len(KINDS)]]
    if name not in names:
        raise ValueError(f"no kind is named {name!r}; a name is colour, texture, shape, such as {names[0]!r}")
    return names.index(name)


class _Placed(NamedTuple):
    kind: int
    segment: int
    x: float  # in units of the side
    y: float
    radius: float


def draw_scene(kinds: tuple[int, ...], *seed: int) -> Scene:
    """The scene of a seed; equal seeds give equal scenes.

    Args:
        kinds: indices into `CATEGORIES` of which the scene may show some; what is no thing is ground.
    """
    rng = np.random.default_rng(seed)
    size = SIDE * _OVERSAMPLING
    canvas = _ground(rng, size)
    placed, segments = _place(rng, kinds)
    ground = len(segments) + 1
    segments[ground] = {"category_id": CATEGORIES[-1]["id"], "iscrowd": 0}
    ids = np.full((size, size), ground, np.int32)
    for one in placed:
        _paint(rng, canvas, ids, one)
    step = _OVERSAMPLING
    small = canvas.reshape(SIDE, step, SIDE, step, 3).mean((1, 3))
    return Scene(photograph(rng, small), *number_segments(rng, ids[::step, ::step], segments, _MIN_PIXELS))


def _ground(rng: np.random.Generator, size: int) -> np.ndarray:
    """`mini`'s landscape, or two colours that run into each other."""
    if rng.random() < 0.4:
        return draw_ground(rng, size, size).canvas
    part = cloud_noise(rng, (size, size), rng.uniform(12, 80))[..., None]
    part = np.clip((part - 0.5) * rng.uniform(1, 6) + 0.5, 0, 1)
    first, second = (_random_colour(rng) for _ in range(2))
    return first * part + second * (1 - part)


def _random_colour(rng: np.random.Generator) -> np.ndarray:
    return np.array(_rgb(rng.random(), rng.uniform(0, 0.6), rng.uniform(0.15, 0.95)))


def _place(rng: np.random.Generator, kinds: tuple[int, ...]) -> tuple[list[_Placed], dict[int, dict]]:
    """Two to four kinds, one to three things of each, apart from each other as far as there is room."""
    chosen = rng.choice(len(kinds), rng.integers(2, 5), replace=False)
    placed: list[_Placed] = []
    segments: dict[int, dict] = {}
    for kind in (kinds[c] for c in chosen):
        radius = rng.uniform(0.13, 0.24)
        for _ in range(rng.integers(1, 4)):
            one = radius * rng.uniform(0.85, 1.15)
            tries = rng.uniform(0.08, 0.92, (8, 2))
            room = [min((np.hypot(p.x - x, p.y - y) - p.radius - one for p in placed), default=1) for x, y in tries]
            x, y = tries[int(np.argmax(room))]
            segment = len(segments) + 1
            segments[segment] = {"category_id": kind + 1, "iscrowd": 0}
            placed.append(_Placed(kind, segment, float(x), float(y), one))
    order = rng.permutation(len(placed))
    return [placed[i] for i in order], segments


def _paint(rng: np.random.Generator, canvas: np.ndarray, ids: np.ndarray, one: _Placed) -> None:
    """Paint one thing, in place: turned, a little squeezed, in colours near its kind's."""
    size = len(ids)
    kind, radius = KINDS[one.kind], one.radius * size
    top, left = (max(int(c * size - radius), 0) for c in (one.y, one.x))
    bottom, right = (min(int(c * size + radius) + 1, size) for c in (one.y, one.x))
    v = (np.arange(top, bottom) + 0.5 - one.y * size)[:, None] / radius
    u = (np.arange(left, right) + 0.5 - one.x * size)[None] / radius
    turn, squeeze = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.0)
    x = u * np.cos(turn) + v * np.sin(turn)
    y = (v * np.cos(turn) - u * np.sin(turn)) / squeeze
    inside = SHAPES[kind.shape](x, y)
    part = TEXTURES[kind.texture](x, y, rng)[..., None]
    first, second = (_near(rng, colour) for colour in _COLOURS[kind.colour])
    light = 1 + rng.uniform(0, 0.2) * (u * np.cos(2.0) - v * np.sin(2.0))[..., None]
    colours = (first * (1 - part) + second * part) * light
    canvas[top:bottom, left:right][inside] = np.clip(colours[inside], 0, 1)
    ids[top:bottom, left:right][inside] = one.segment


def _near(rng: np.random.Generator, colour: tuple[float, float, float]) -> np.ndarray:
    hue, saturation, value = colour
    hue += rng.normal(0, 0.012)
    return np.array(_rgb(hue, saturation * rng.uniform(0.85, 1), value * rng.uniform(0.85, 1.05)))


def _rgb(hue: float, saturation: float, value: float) -> tuple[float, float, float]:
    return colorsys.hsv_to_rgb(hue % 1, min(saturation, 1), min(value, 1))

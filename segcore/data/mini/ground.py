"""Sky, grass, road and water of a scene, in perspective.

The ground is a plane.  Its pixels have a nearness in (0, 1]: 0 at the horizon,
1 at the bottom edge; lengths on the ground shrink in proportion to it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .light import cloud_noise, smooth_noise

SKY, GRASS, ROAD, WATER = range(4)

_SKIES = (((0.30, 0.50, 0.85), (0.75, 0.85, 0.95)), ((0.60, 0.63, 0.67), (0.80, 0.82, 0.84)))
_GRASSES = ((0.25, 0.45, 0.15), (0.38, 0.50, 0.18))
_ROADS = ((0.38, 0.38, 0.40), (0.52, 0.50, 0.48))


class Ground(NamedTuple):
    """`canvas` (H, W, 3) colours, `labels` (H, W) of the four constants above, `horizon` a row."""

    canvas: np.ndarray
    labels: np.ndarray
    horizon: int


def draw_ground(rng: np.random.Generator, height: int, width: int) -> Ground:
    horizon = int(height * rng.uniform(0.28, 0.45))
    canvas = np.empty((height, width, 3))
    labels = np.full((height, width), SKY)
    labels[horizon:] = GRASS
    sky_colour = _paint_sky(rng, canvas[:horizon])

    below = (height - horizon, width)
    nearness = np.linspace(0, 1, below[0] + 1)[1:, None]
    x = np.arange(width)[None] / width
    canvas[horizon:] = _grass(rng, below, nearness)
    if rng.random() < 0.55:
        region = _water_region(rng, x, nearness)
        canvas[horizon:][region] = _water(rng, below, nearness, sky_colour)[region]
        labels[horizon:][region] = WATER
    if rng.random() < 0.65:
        offset, half_width = _road_shape(rng, x, nearness)
        region = np.abs(offset) < half_width
        canvas[horizon:][region] = _road(rng, below, nearness, offset / half_width)[region]
        labels[horizon:][region] = ROAD
    # Air between: the far ground takes the colour of the low sky.
    air = 0.5 * np.exp(-nearness * rng.uniform(5, 12))[..., None]
    canvas[horizon:] = canvas[horizon:] * (1 - air) + sky_colour * air
    return Ground(canvas, labels, horizon)


def _vary(rng: np.random.Generator, colours) -> np.ndarray:
    return np.clip(np.array(colours[rng.integers(len(colours))]) * rng.uniform(0.8, 1.2, 3), 0, 1)


def _paint_sky(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Paint in place; returns the colour at the horizon."""
    high, low = (np.clip(np.array(c) * rng.uniform(0.85, 1.15), 0, 1) for c in _SKIES[rng.integers(len(_SKIES))])
    rows, columns = canvas.shape[:2]
    part = np.linspace(0, 1, rows)[:, None, None] ** rng.uniform(0.7, 1.6)
    canvas[:] = high * (1 - part) + low * part
    clouds = cloud_noise(rng, (rows, columns), rng.uniform(20, 50), stretch=2.5)
    cover = np.clip((clouds - rng.uniform(0.4, 0.7)) * 4, 0, 0.85)[..., None]
    canvas[:] = canvas * (1 - cover) + rng.uniform(0.75, 0.98) * cover
    return low


def _grass(rng: np.random.Generator, shape: tuple[int, int], nearness: np.ndarray) -> np.ndarray:
    patches = cloud_noise(rng, shape, 45, stretch=2.5)
    blades = smooth_noise(rng, shape, (5, 2))
    fine = smooth_noise(rng, shape, (2, 2))
    brightness = 0.75 + 0.35 * patches + 0.45 * (blades - 0.5) * nearness + 0.2 * (fine - 0.5)
    dry = np.clip((smooth_noise(rng, shape, (25, 60)) - 0.55) * 3, 0, 1)[..., None]
    return (_vary(rng, _GRASSES) * (1 - 0.5 * dry) + _vary(rng, _GRASSES) * 0.5 * dry) * brightness[..., None]


def _water_region(rng: np.random.Generator, x: np.ndarray, nearness: np.ndarray) -> np.ndarray:
    """A lake: an ellipse on the plane, its shore bent by two waves."""
    distance = 1 / np.maximum(nearness, 0.02)
    centre = rng.uniform(1.3, 4.0)
    depth = centre * rng.uniform(0.35, 0.6)
    across = (x - 0.5) * distance - (rng.uniform(-0.6, 0.6)) * centre
    angle = np.arctan2(distance - centre, across)
    waves = 1 + 0.15 * np.sin(3 * angle + rng.uniform(0, 6)) + 0.08 * np.sin(7 * angle + rng.uniform(0, 6))
    breadth = centre * rng.uniform(0.4, 0.9)
    return ((distance - centre) / depth) ** 2 + (across / breadth) ** 2 < waves**2


def _water(rng: np.random.Generator, shape: tuple[int, int], nearness: np.ndarray, sky: np.ndarray) -> np.ndarray:
    own = np.array([0.08, 0.27, 0.45]) * rng.uniform(0.8, 1.2, 3)
    mirror = rng.uniform(0.15, 0.4)
    ripples = np.sin(18 / np.maximum(nearness, 0.05) + 5 * smooth_noise(rng, shape, (6, 50)))
    glitter = smooth_noise(rng, shape, (2, 14))
    brightness = 0.92 + 0.08 * ripples + 0.3 * (glitter - 0.5)
    return (own * (1 - mirror) + sky * mirror) * brightness[..., None]


def _road_shape(rng: np.random.Generator, x: np.ndarray, nearness: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Offset from the road's middle and its half width, in image widths."""
    far, near = rng.uniform(0.2, 0.8), rng.uniform(-0.1, 1.1)
    bend = rng.uniform(-0.5, 0.5)
    middle = far + (near - far) * nearness + bend * nearness * (1 - nearness)
    return x - middle, rng.uniform(0.16, 0.4) * nearness + 0.004


def _road(rng: np.random.Generator, shape: tuple[int, int], nearness: np.ndarray, offset: np.ndarray) -> np.ndarray:
    brightness = 0.85 + 0.2 * cloud_noise(rng, shape, 20) + 0.25 * (smooth_noise(rng, shape, (2, 2)) - 0.5)
    colour = _vary(rng, _ROADS) * brightness[..., None]
    if rng.random() < 0.7:
        dashes = np.sin(rng.uniform(6, 10) / np.maximum(nearness, 0.03)) > 0
        line = (np.abs(offset) < 0.035) & dashes | (np.abs(np.abs(offset) - 0.9) < 0.03)
        colour[line] = colour[line] * 0.3 + 0.6
    return colour

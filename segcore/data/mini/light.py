"""Noise fields, the sun, and the camera's imperfections.

Colours are RGB in [0, 1]; arrays are (H, W) or (H, W, 3) float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Sun(NamedTuple):
    """`direction` to the light (x right, y up, z to the viewer), unit; `ambient`: brightness in the shade."""

    direction: np.ndarray
    ambient: float

    def shade(self, normal_x, normal_y, normal_z):
        """Brightness of surfaces with these normals (Lambert's cosine law plus ambient light)."""
        x, y, z = self.direction
        cosine = np.maximum(normal_x * x + normal_y * y + normal_z * z, 0)
        return self.ambient + (1.1 - self.ambient) * cosine


def draw_sun(rng: np.random.Generator) -> Sun:
    direction = np.array([rng.uniform(-0.9, 0.9), rng.uniform(0.4, 0.9), rng.uniform(0.3, 0.8)])
    return Sun(direction / np.linalg.norm(direction), rng.uniform(0.35, 0.6))


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cell: tuple[float, float]) -> np.ndarray:
    """Values in [0, 1] that vary over about `cell` = (height, width) pixels: a random grid, interpolated."""
    rows, row_part = _grid_position(shape[0], cell[0])
    columns, column_part = _grid_position(shape[1], cell[1])
    grid = rng.random((rows[-1] + 2, columns[-1] + 2))
    # Along the columns first, while there are few rows.
    grid = grid[:, columns] + (grid[:, columns + 1] - grid[:, columns]) * column_part
    return grid[rows] + (grid[rows + 1] - grid[rows]) * row_part[:, None]


def _grid_position(length: int, cell: float) -> tuple[np.ndarray, np.ndarray]:
    position = np.arange(length) / cell
    whole = position.astype(int)
    part = position - whole
    return whole, part * part * (3 - 2 * part)


def cloud_noise(rng: np.random.Generator, shape: tuple[int, int], cell: float, stretch: float = 1.0) -> np.ndarray:
    """Several octaves of smooth noise, in [0, 1]; `stretch` > 1 makes it wider than high."""
    total = np.zeros(shape)
    for octave in range(4):
        size = max(cell / 2**octave, 1.0)
        total += smooth_noise(rng, shape, (size, size * stretch)) / 2**octave
    return total / 1.875


def photograph(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Uneven light, colour cast, haze of the lens, sensor noise; (H, W, 3) in [0, 1] -> uint8."""
    height, width = canvas.shape[:2]
    across = np.linspace(-1, 1, width)[None, :, None] * rng.uniform(-0.18, 0.18)
    down = np.linspace(-1, 1, height)[:, None, None] * rng.uniform(-0.1, 0.1)
    cast = rng.uniform(0.94, 1.05, 3)
    image = canvas * (1 + across + down) * cast * rng.uniform(0.85, 1.08)
    if rng.random() < 0.2:
        image = _blur(image)
    haze = rng.uniform(0, 0.06)
    image = image * (1 - haze) + haze * 0.8
    sigma = rng.uniform(0.008, 0.025)
    grain = rng.normal(0, sigma, image.shape) * 0.5 + rng.normal(0, sigma, (height, width, 1)) * 0.7
    return (np.clip(image + grain, 0, 1) * 255 + 0.5).astype(np.uint8)


def _blur(image: np.ndarray) -> np.ndarray:
    """A 3 x 3 binomial filter."""
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    return (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 16

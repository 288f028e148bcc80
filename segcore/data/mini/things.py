"""The things of a scene, each a function of coordinates.

u runs to the right from the middle of the foot, v upwards from the foot; both
are in units of the thing's height, so v in [0, 1].  A painter returns the
thing's mask (H, W) bool and its colours (H, W, 3), which count inside the mask.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np

from .light import Sun, smooth_noise

Painter = Callable[[np.random.Generator, np.ndarray, np.ndarray, Sun], tuple[np.ndarray, np.ndarray]]


def _colour(rng: np.random.Generator, saturation=(0.35, 0.95), value=(0.35, 0.95)) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value)))


def _lit(colour: np.ndarray, brightness) -> np.ndarray:
    return colour * np.asarray(brightness)[..., None]


def ball(rng, u, v, sun):
    x, y = u / 0.5, (v - 0.5) / 0.5
    inside = x * x + y * y < 1
    z = np.sqrt(np.maximum(1 - x * x - y * y, 0))
    first, second = _colour(rng), _colour(rng)
    angle, count = rng.uniform(0, np.pi), rng.integers(1, 4)
    stripes = np.sin(count * 2.5 * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 6)) > rng.uniform(-1.2, 0.8)
    colour = np.where(stripes[..., None], first, second)
    shine = np.maximum(x * sun.direction[0] + y * sun.direction[1] + z * sun.direction[2], 0) ** 20
    return inside, _lit(1, sun.shade(x, y, z)) * colour + 0.35 * shine[..., None]


def box(rng, u, v, sun):
    """A cuboid seen from a little above: front, one side, top."""
    half, depth = rng.uniform(0.4, 0.75), rng.uniform(0.2, 0.45)
    rise, side = rng.uniform(0.12, 0.25), rng.choice([-1.0, 1.0])
    front_height = 1 - rise
    u = u * side + depth / 2
    front = (np.abs(u) < half) & (v < front_height)
    lean = (u - half) / depth  # 0 at the front edge, 1 at the back one
    flank = (lean > 0) & (lean < 1) & (v > lean * rise) & (v < front_height + lean * rise)
    slant = (v - front_height) / rise
    top = (slant > 0) & (slant < 1) & (np.abs(u - slant * depth) < half)
    colour = _colour(rng, (0.15, 0.8))
    planks = 1 - 0.25 * (np.sin(v * rng.uniform(12, 30)) > 0.85) if rng.random() < 0.6 else np.ones_like(v)
    brightness = np.zeros_like(u)
    brightness[front] = sun.shade(0, 0, 1)
    brightness[flank] = sun.shade(side, 0, 0)
    brightness[top] = sun.shade(0, 1, 0)
    return front | flank | top, _lit(colour, brightness * np.where(top, 1, planks))


def cone(rng, u, v, sun):
    radius = rng.uniform(0.28, 0.42)
    flat = 0.12 * radius / 0.35
    half = radius * (1 - v)
    sides = (np.abs(u) < half) & (v >= flat)
    foot = (u / radius) ** 2 + ((v - flat) / flat) ** 2 < 1
    inside = (sides | (foot & (v < flat))) & (v < 1)
    across = np.clip(u / np.maximum(half, 1e-3), -1, 1)
    colour, other = _colour(rng, (0.5, 1.0), (0.5, 1.0)), np.full(3, rng.uniform(0.6, 0.95))
    bands = np.sin((v + 0.04 * across**2) * rng.uniform(9, 16) + rng.uniform(0, 6)) > 0.3
    shade = sun.shade(across * 0.9, 0.3, np.sqrt(1 - 0.81 * across**2))
    return inside, _lit(1, shade) * np.where(bands[..., None] & (rng.random() < 0.7), other, colour)


def tree(rng, u, v, sun):
    trunk = (np.abs(u - 0.03 * np.sin(v * 6)) < 0.05 + 0.02 * (1 - v)) & (v < 0.55)
    crown, height = np.zeros_like(trunk), np.zeros_like(u)
    for _ in range(rng.integers(6, 10)):
        x, y, r = rng.uniform(-0.2, 0.2), rng.uniform(0.45, 0.82), rng.uniform(0.13, 0.2)
        bulge = 1 - ((u - x) ** 2 + (v - y) ** 2) / r**2
        crown |= bulge > 0
        height = np.maximum(height, bulge)
    leaves = smooth_noise(rng, u.shape, (3, 3))
    crown &= (height > 0.15) | (leaves > 0.35)  # a frayed edge
    hues = (
        (0.20, 0.42, 0.14),
        (0.12, 0.30, 0.16),
        (0.55, 0.42, 0.12),
        (0.55, 0.24, 0.12),
        (0.32, 0.48, 0.22),
    )
    colour = np.array(hues[rng.integers(len(hues))]) * rng.uniform(0.8, 1.25)
    shade = sun.shade(u * 2.5, (v - 0.6) * 2.5, np.sqrt(height)) * (0.55 + 0.9 * leaves)
    bark = _lit(np.array([0.33, 0.24, 0.17]), sun.shade(u * 14, 0, 0.6))
    return trunk | crown, np.where(crown[..., None], _lit(colour, shade), bark)


def car(rng, u, v, sun):
    facing = rng.choice([-1.0, 1.0])
    u = u * facing
    length = rng.uniform(1.05, 1.3)
    body = (np.abs(u) < length - 0.25 * np.maximum(v - 0.38, 0)) & (v > 0.14) & (v < 0.58)
    slope = (v - 0.55) / 0.45
    cabin = (u > -0.85 + 0.3 * slope) & (u < 0.55 - 0.35 * slope) & (v > 0.55) & (v < 1)
    glass = (u > -0.72 + 0.3 * slope) & (u < 0.42 - 0.35 * slope) & (v > 0.62) & (v < 0.92)
    glass &= np.abs(u + 0.12) > 0.04
    axle = length * 0.6
    wheel = np.minimum((u - axle) ** 2, (u + axle) ** 2) + (v - 0.19) ** 2
    colour = _colour(rng, (0.0, 0.9), (0.2, 0.95))
    shade = sun.shade(0, 0.3, 0.95) * (0.75 + 0.5 * v)
    painted = _lit(colour, shade)
    painted[glass] = np.array([0.16, 0.20, 0.26]) + 0.25 * (v[glass] - 0.6)[:, None]
    painted[wheel < 0.19**2] = 0.09
    painted[wheel < 0.09**2] = 0.5
    lamp = (np.abs(u - length + 0.08) < 0.07) & (np.abs(v - 0.42) < 0.06)
    painted[lamp] = (0.9, 0.85, 0.6)
    return body | cabin | (wheel < 0.19**2), painted


def stone(rng, u, v, sun):
    """Unlabelled: it ends up void."""
    angle = np.arctan2(v - 0.4, u)
    radius = 0.5 + 0.08 * np.sin(3 * angle + rng.uniform(0, 6)) + 0.05 * np.sin(5 * angle + rng.uniform(0, 6))
    inside = (u**2 + (v - 0.42) ** 2 < radius**2) & (v > 0)
    rough = 0.7 + 0.5 * smooth_noise(rng, u.shape, (4, 4))
    return inside, _lit(np.full(3, rng.uniform(0.35, 0.6)), sun.shade(u, v - 0.3, 0.7) * rough)


def post(rng, u, v, sun):
    """Unlabelled: it ends up void."""
    inside = (np.abs(u) < 0.045) | ((v > 0.78) & (np.abs(u) < 0.16))
    return inside & (v < 1), _lit(_colour(rng, (0.0, 0.4)), sun.shade(u * 15, 0, 0.7))

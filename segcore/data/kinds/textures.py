"""What covers a thing: how much of its second colour each place takes.

Each takes x, y (H, W), in units of the thing's radius, and a generator; returns (H, W) in [0, 1]. The
generator only moves the pattern; its size belongs to the kind.
"""

from __future__ import annotations

import numpy as np


def plain(x, y, rng):
    return np.zeros_like(x)


def stripes(x, y, rng):
    return (np.sin(7 * x + rng.uniform(0, 6)) > 0).astype(float)


def checks(x, y, rng):
    phase = rng.uniform(0, 6, 2)
    return (np.sin(5.5 * x + phase[0]) * np.sin(5.5 * y + phase[1]) > 0).astype(float)


def dots(x, y, rng):
    x, y = x / 0.52 + rng.uniform(), y / 0.52 + rng.uniform()
    return ((x - np.round(x)) ** 2 + (y - np.round(y)) ** 2 < 0.075).astype(float)


def rings(x, y, rng):
    return (np.sin(9 * np.hypot(x, y) + rng.uniform(-0.3, 0.3)) > 0).astype(float)


def gradient(x, y, rng):
    return np.clip(0.5 + 0.6 * x, 0, 1)


def wedges(x, y, rng):
    return (np.sin(5 * np.arctan2(y, x) + rng.uniform(0, 6)) > 0).astype(float)


def halves(x, y, rng):
    return (y > rng.uniform(-0.15, 0.15)).astype(float)


TEXTURES = (plain, stripes, checks, dots, rings, gradient, wedges, halves)

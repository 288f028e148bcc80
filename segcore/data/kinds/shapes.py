"""The outlines of things: functions of coordinates whose unit circle just holds the thing.

Each takes x, y (H, W) and returns the mask (H, W) bool.
"""

from __future__ import annotations

import numpy as np


def disc(x, y):
    return x * x + y * y < 0.85


def square(x, y):
    return np.maximum(np.abs(x), np.abs(y)) < 0.72


def triangle(x, y):
    return (y > -0.5) & (y < 0.95 - 1.68 * np.abs(x))


def star(x, y):
    angle, radius = np.arctan2(x, y), np.hypot(x, y)
    sector = np.pi / 5
    from_tip = np.abs(angle % (2 * sector) - sector)  # pi/5 at a tip, 0 between two
    return radius * (1 + 1.1 * np.cos(from_tip * 2.5)) < 1.0


def ring(x, y):
    radius = x * x + y * y
    return (radius < 0.95) & (radius > 0.24)


def cross(x, y):
    x, y = np.abs(x), np.abs(y)
    return (np.minimum(x, y) < 0.32) & (np.maximum(x, y) < 0.92)


def crescent(x, y):
    return (x * x + y * y < 0.95) & ((x - 0.5) ** 2 + y * y > 0.5)


def bar(x, y):
    return (np.abs(x) < 0.95) & (np.abs(y) < 0.36)


def ellipse(x, y):
    return x * x + (y / 0.5) ** 2 < 0.95


def heart(x, y):
    y = y + 0.17 - 0.65 * np.abs(x) ** 0.7
    return (x / 0.75) ** 2 + (y / 0.66) ** 2 < 1


def corner(x, y):
    return (np.maximum(np.abs(x), np.abs(y)) < 0.7) & ((x < -0.1) | (y < -0.1))


def flower(x, y):
    return np.hypot(x, y) < 0.68 + 0.27 * np.cos(6 * np.arctan2(y, x))


SHAPES = (disc, square, triangle, star, ring, cross, crescent, bar, ellipse, heart, corner, flower)

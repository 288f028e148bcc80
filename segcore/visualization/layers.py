"""Masks and their borders over a photograph."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from .colors import Color

BORDER = (255, 255, 255)


def blend_map(image: np.ndarray, slots: np.ndarray, colors: Sequence[Color], alpha: float) -> np.ndarray:
    """Colour every pixel by its slot.

    Args:
        image: (H, W, 3) uint8.
        slots: (H, W) integers; 0 leaves the pixel as it is, i + 1 gives it `colors[i]`.
        alpha: of the colour, 0..1.
    """
    overlay = np.take(np.array([(0, 0, 0), *colors], np.uint8), slots, axis=0)
    blended = cv2.addWeighted(image, 1 - alpha, overlay, alpha, 0)
    return cv2.copyTo(blended, (slots > 0).view(np.uint8), image.copy())


def draw_borders(image: np.ndarray, slots: np.ndarray, thickness: int, strength: float = 0.9) -> np.ndarray:
    """White, softened lines where neighbouring pixels differ in their slot."""
    edge = np.zeros(slots.shape, np.uint8)
    edge[:, 1:] |= slots[:, 1:] != slots[:, :-1]
    edge[1:] |= slots[1:] != slots[:-1]
    return _draw_line(image, edge, thickness, BORDER, strength)


def blend_mask(image: np.ndarray, mask: np.ndarray, color: Color, alpha: float, thickness: int) -> np.ndarray:
    """One object's (H, W) bool mask in `color`, with a white border around it."""
    if not mask.any():
        return image.copy()
    x0, y0, x1, y1 = _window(mask, thickness + 2)
    part, inside = image[y0:y1, x0:x1], mask[y0:y1, x0:x1]
    painted = part.astype(np.float32)
    painted[inside] = painted[inside] * (1 - alpha) + np.array(color, np.float32) * alpha
    # Padded: an object at the picture's edge gets no line along that edge, as in a map.
    grown = np.pad(inside.astype(np.uint8), 1, mode="edge")
    edge = cv2.morphologyEx(grown, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))[1:-1, 1:-1] & ~inside
    result = image.copy()
    result[y0:y1, x0:x1] = _draw_line(_to_uint8(painted), edge, thickness, BORDER, 0.95)
    return result


def muted(image: np.ndarray) -> np.ndarray:
    """The photograph, darker and nearly grey, so that what is drawn on it stands out."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None]
    return _to_uint8((0.7 * grey + 0.3 * image) * 0.72)


def _draw_line(
    image: np.ndarray, edge: np.ndarray, thickness: int, color: Color, strength: float
) -> np.ndarray:
    line = edge.astype(np.float32)
    if thickness > 1:
        line = cv2.dilate(line, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (thickness, thickness)))
    # A line of hard pixels looks like stairs; blurred by less than a pixel it looks drawn.
    line = cv2.GaussianBlur(line, (3, 3), 0.7) * strength
    drawn = line > 0  # few of the pixels
    weight, result = line[drawn][:, None], image.copy()
    result[drawn] = _to_uint8(image[drawn] * (1 - weight) + np.array(color, np.float32) * weight)
    return result


def _window(mask: np.ndarray, margin: int) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = mask.shape
    return (
        max(int(columns[0]) - margin, 0),
        max(int(rows[0]) - margin, 0),
        min(int(columns[-1]) + 1 + margin, width),
        min(int(rows[-1]) + 1 + margin, height),
    )


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)

"""Labels to colours and back.

A prompt paints each label in one colour on black; a painted answer is read by the nearest colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

LEVELS = (0, 64, 128, 191, 255)  # per channel; neighbours differ by what a painting still keeps apart
MAX_LABELS = len(LEVELS) ** 3 - 1  # all of their combinations but black
MIN_DISTANCE = 60.0  # between colours that count as different, in RGB levels
THRESHOLD = 0.5  # of a score: nearer to the label's colour than to the background


# Corners of the colour cube. A soft edge between two of them, or to black, is never nearest to a third: other
# colours would draw a ring of a wrong label around each object. White first: with a single label that is the
# form the released model was shown most.
CORNERS = (
    (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255),
)  # fmt: skip


@cache
def _spread() -> np.ndarray:
    """The corners, then all other colours of the grid, each as far as possible from those before it."""
    grid = np.stack(np.meshgrid(LEVELS, LEVELS, LEVELS, indexing="ij"), -1).reshape(-1, 3).astype(np.int64)
    chosen = [np.array(c, np.int64) for c in CORNERS]
    nearest = np.min([((grid - c) ** 2).sum(1) for c in [np.zeros(3, np.int64), *chosen]], axis=0)
    while len(chosen) < MAX_LABELS:
        best = int(nearest.argmax())  # ties: the first, so the order never changes
        chosen.append(grid[best])
        nearest = np.minimum(nearest, ((grid - grid[best]) ** 2).sum(1))
    return np.array(chosen, np.uint8)


def palette(count: int) -> np.ndarray:
    """`count` colours that are far from black and from each other.

    Returns:
        (count, 3) uint8 RGB; a single one is white. The first n of them do not depend on `count`.

    Raises:
        ValueError: if so many cannot be told apart in a painting.
    """
    if not 0 < count <= MAX_LABELS:
        raise ValueError(
            f"{count} labels, but a painting tells 1 to {MAX_LABELS} colours apart; split the labels over "
            "several prompts, or pass separate=True (one pass per label)"
        )
    return _spread()[:count].copy()


def repeated_palette(count: int) -> np.ndarray:
    """`count` colours to show labels that are painted apart: they repeat where the palette ends."""
    colours = palette(min(count, MAX_LABELS))
    return colours[np.arange(count) % len(colours)]


def check_distinct(colours: np.ndarray) -> None:
    """Raise ValueError if two of (n, 3) colours, or one and black, are too close to be told apart."""
    if len(colours) > MAX_LABELS:
        palette(len(colours))
    points = np.concatenate([np.zeros((1, 3)), colours.astype(np.float64)])
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    distance[np.arange(len(points)), np.arange(len(points))] = np.inf
    i, j = np.unravel_index(distance.argmin(), distance.shape)
    if distance[i, j] < MIN_DISTANCE:
        names = [tuple(int(c) for c in points[k]) for k in (i, j)]
        raise ValueError(
            f"the colours {names[0]} and {names[1]} of a painted mask are only {distance[i, j]:.0f} levels "
            f"apart, fewer than {MIN_DISTANCE:.0f}; paint with flat, clearly different colours (no JPEG, no "
            "soft edges), or pass a label map"
        )


def paint_labels(label_map: np.ndarray, labels: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """(H, W) integer labels -> (H, W, 3) uint8: each label in its colour, everything else black."""
    order = np.argsort(labels)
    position = np.searchsorted(labels, label_map, sorter=order).clip(max=len(labels) - 1)
    index = order[position]
    known = labels[index] == label_map
    return np.where(known[..., None], colours[index], 0).astype(np.uint8)


def paint_targets(
    label_maps: Sequence[np.ndarray], labels: np.ndarray, colours: np.ndarray, separate: bool
) -> np.ndarray:
    """K maps (h, w) -> (P, K, h, w, 3) uint8: all labels in their colours (P 1), or each alone in white."""
    if not separate:
        return np.stack([paint_labels(m, labels, colours) for m in label_maps])[None]
    maps = np.stack(list(label_maps))
    return np.stack([np.repeat((maps == label)[..., None] * np.uint8(255), 3, -1) for label in labels])


def read_painting(painting: Tensor, colours: Tensor) -> Tensor:
    """How much each pixel of a painting belongs to each colour rather than to black.

    Args:
        painting: (3, H, W), RGB 0..255. colours: (n, 3), RGB 0..255.

    Returns:
        (n, H, W) in [0, 1]: distance to black over the sum of the distances to black and to the colour,
        so 0.5 where both are equally near; for white it is the mean intensity of a grey pixel.
    """
    painting = painting.float()
    black = painting.norm(dim=0)
    scores = []
    for colour in colours.float():
        distance = (painting - colour.view(3, 1, 1)).norm(dim=0)
        scores.append(black / (black + distance).clamp_min(1e-6))
    return torch.stack(scores)


def label_pixels(scores: Tensor, labels: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """(n, H, W) scores -> (H, W) int32: the best label where its score passes the threshold, else 0."""
    best, index = scores.max(0)
    return torch.where(best > threshold, labels.to(index.device)[index], 0).int()


@cache
def davis_palette() -> list[int]:
    """The 256 RGB triples of DAVIS and PASCAL VOC label PNGs, flat: label bits spread over the channels."""
    flat = []
    for label in range(256):
        colour = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                colour[channel] |= (label >> channel & 1) << (7 - bit)
            label >>= 3
        flat += colour
    return flat

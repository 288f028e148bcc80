"""Colours by place: an object is painted in the colour of the cell that its middle lies in (Painter's for COCO).

80 x 80 cells over the picture. A block of 20 x 20 of them has its red, a row of a block its green, a column its blue:

    red 255 - 15 * block (row by row)    green 255 - 13 * row in the block    blue 255 - 13 * column in the block

So a network that paints objects, whatever their class, need not tell apart more than where they are.
"""

from __future__ import annotations

import numpy as np

CELLS = 80
BLOCK = 20
_STEP_RED, _STEP = 15, 13


def place_colours() -> np.ndarray:
    """(80 * 80, 3) uint8: the colour of each cell, row by row."""
    rows, cols = np.divmod(np.arange(CELLS * CELLS), CELLS)
    block = rows // BLOCK * (CELLS // BLOCK) + cols // BLOCK
    return np.stack(
        [255 - _STEP_RED * block, 255 - _STEP * (rows % BLOCK), 255 - _STEP * (cols % BLOCK)], 1
    ).astype(np.uint8)


def cell_of(mask: np.ndarray) -> int:
    """The cell of a mask's centre of mass; mask (H, W) bool, not empty."""
    rows, cols = np.nonzero(mask)
    row, col = (int(at.mean() / size * (CELLS - 1)) for at, size in zip((rows, cols), mask.shape))
    return row * CELLS + col


def paint_places(labels: np.ndarray) -> np.ndarray:
    """(H, W) labels by instance -> (H, W, 3) uint8: each object in its place's colour, all else black."""
    painting = np.zeros((*labels.shape, 3), np.uint8)
    colours = place_colours()
    for label in np.unique(labels[labels > 0]):
        mask = labels == label
        painting[mask] = colours[cell_of(mask)]
    return painting

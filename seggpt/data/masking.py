"""Which patches of a target the network has to paint (SegGPT sec. 3.1; Painter, arXiv:2212.02499).

A mask is (rows, cols) bool over the patches of the stitched canvas, True = hidden; the lower half of the
rows is the query.
"""

from __future__ import annotations

import math
import random

import numpy as np

MIN_AREA = 16  # patches of a block
ASPECT = 0.3  # of a block, least; its inverse is the most
TRIES = 10


def half_mask(rows: int, cols: int) -> np.ndarray:
    """Hide the query's whole target: the mask of inference."""
    mask = np.zeros((rows, cols), bool)
    mask[rows // 2 :] = True
    return mask


def block_mask(
    rows: int, cols: int, ratio: float, rectangles: random.Random, patches: np.random.Generator | np.random.RandomState
) -> np.ndarray:
    """Hide `ratio` of all patches in random blocks (BEiT, arXiv:2106.08254, algorithm 1, as Painter uses it).

    Blocks are placed until enough is hidden or ten in a row do not fit; single patches make up the rest. No
    block is larger than a quarter of the canvas, and none spans its whole height or width.

    Args:
        ratio: of hidden patches, in [0, 1]; met exactly (rounded down).
        rectangles: where the blocks are drawn from. patches: where the single patches are.
    """
    total = int(rows * cols * ratio)
    mask = np.zeros((rows, cols), bool)
    hidden = 0
    while hidden < total:
        added = _place_block(mask, min(total - hidden, rows * cols // 4), rectangles)
        if not added:
            break
        hidden += added
    flat = mask.reshape(-1)
    if hidden < total:
        free = np.flatnonzero(~flat)
        flat[free[patches.choice(len(free), total - hidden, replace=False)]] = True
    return mask


def _place_block(mask: np.ndarray, limit: int, rectangles: random.Random) -> int:
    """Hide one more block of at most `limit` new patches, in place; returns how many, 0 if none fits."""
    rows, cols = mask.shape
    for _ in range(TRIES):
        area = rectangles.uniform(MIN_AREA, limit)  # also where the limit is below
        aspect = math.exp(rectangles.uniform(math.log(ASPECT), math.log(1 / ASPECT)))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height >= rows or width >= cols:
            continue
        top, left = rectangles.randint(0, rows - height), rectangles.randint(0, cols - width)
        block = mask[top : top + height, left : left + width]
        new = block.size - int(block.sum())
        if 0 < new <= limit:
            block[:] = True
            return new
    return 0

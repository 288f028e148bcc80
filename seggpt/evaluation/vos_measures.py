"""Region similarity J and boundary accuracy F of masks (Perazzi et al., CVPR 2016), as DAVIS counts them."""

from __future__ import annotations

import math

import cv2
import numpy as np

TOLERANCE = 0.008  # of the picture's diagonal: how far apart boundaries still match


def region_similarity(predicted: np.ndarray, truth: np.ndarray) -> float:
    """J: intersection over union of (H, W) bool masks; 1 if both are empty."""
    union = np.count_nonzero(predicted | truth)
    return np.count_nonzero(predicted & truth) / union if union else 1.0


def boundary_accuracy(predicted: np.ndarray, truth: np.ndarray, tolerance: float = TOLERANCE) -> float:
    """F: harmonic mean of the shares of either boundary that lie near the other.

    Args:
        predicted, truth: (H, W) bool.
        tolerance: radius of "near", of the diagonal, rounded up to pixels.

    Returns:
        in [0, 1]; 1 if neither has a boundary, 0 if one of them has none.
    """
    radius = math.ceil(tolerance * math.hypot(*truth.shape))
    ours, theirs = boundary(predicted), boundary(truth)
    if not ours.any() or not theirs.any():
        return float(ours.any() == theirs.any())
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = (x * x + y * y <= radius * radius).astype(np.uint8)
    precision = _share(ours, cv2.dilate(theirs.astype(np.uint8), disc))
    recall = _share(theirs, cv2.dilate(ours.astype(np.uint8), disc))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels (H, W) bool whose right, lower or lower right neighbour is on the mask's other side.

    Past the last row and column there is no neighbour to differ from.
    """
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, below, diagonal = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    found = (mask != right) | (mask != below) | (mask != diagonal)
    found[-1], found[:, -1] = (mask != right)[-1], (mask != below)[:, -1]
    found[-1, -1] = False
    return found


def _share(points: np.ndarray, near: np.ndarray) -> float:
    return np.count_nonzero(points & (near > 0)) / np.count_nonzero(points)

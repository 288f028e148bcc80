"""A mask as polygons that run along the edges of its pixels, so that filling them gives the mask back.

Coordinates: x right, y down; pixel (column, row) is the square from (column, row) to (column + 1, row + 1),
its centre at + 0.5. Corners are integers, so no pixel centre lies on an outline: a program that fills
polygons by pixel centres, whatever its rule for the border, gets exactly the mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

# Steps along an edge, in order of a turn to the right (on the screen): east, south, west, north.
_STEPS = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])


@dataclass(frozen=True)
class Polygon:
    """One connected part of a mask.

    Attributes:
        exterior: (N, 2) int64 corners x, y; clockwise on the screen; the first is not repeated.
        holes: the same for each hole, the other way round.
    """

    exterior: np.ndarray
    holes: list[np.ndarray]

    @property
    def rings(self) -> list[np.ndarray]:
        """The exterior and the holes."""
        return [self.exterior, *self.holes]


def mask_polygons(mask: np.ndarray) -> list[Polygon]:
    """The parts of a mask (connected through pixel sides) as simple polygons with holes.

    Args:
        mask: (H, W) bool.

    Returns:
        One polygon per part, from the top; no ring crosses or touches itself.

    Raises:
        ValueError: for another type or number of dimensions.
    """
    if mask.dtype != bool or mask.ndim != 2:
        raise ValueError(f"a mask is (H, W) bool, got {mask.dtype} {mask.shape}")
    if not mask.any():
        return []
    corners, directions, parts = _edges(mask)
    exteriors: dict[int, np.ndarray] = {}
    holes: dict[int, list[np.ndarray]] = {}
    for ring in _rings(_successors(corners, directions), corners):
        points, part = _corners(corners[ring], directions[ring]), int(parts[ring[0]])
        if _area(points) > 0:
            exteriors[part] = points
        else:
            holes.setdefault(part, []).append(points)
    return [Polygon(exterior, holes.get(part, [])) for part, exterior in sorted(exteriors.items())]


def _edges(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The sides between mask and background, with the mask on their right.

    Returns:
        (start corners (E, 2), directions (E,), number of the part that each bounds (E,)).
    """
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    neighbours = (padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2])
    offsets = ((0, 0), (1, 0), (1, 1), (0, 1))  # start of the upper, right, lower and left side
    corners, directions, parts = [], [], []
    for direction, (neighbour, offset) in enumerate(zip(neighbours, offsets)):
        rows, columns = np.nonzero(inside & ~neighbour)
        corners.append(np.stack([columns, rows], 1) + offset)
        directions.append(np.full(len(rows), direction))
        parts.append(labels[rows, columns])
    return np.concatenate(corners), np.concatenate(directions), np.concatenate(parts)


def _successors(corners: np.ndarray, directions: np.ndarray) -> list[int]:
    """For each edge the one that goes on from its end; where two do, the turn to the right.

    That turn stays with the same pixel, so parts that touch in a corner only stay apart.
    """
    width = int(corners[:, 0].max()) + 2
    starts = corners[:, 1] * width + corners[:, 0]
    ends = corners + _STEPS[directions]
    ends = ends[:, 1] * width + ends[:, 0]
    order = np.lexsort((directions, starts))
    first = np.searchsorted(starts, ends, side="left", sorter=order)
    last = np.searchsorted(starts, ends, side="right", sorter=order) - 1
    right = (directions + 1) % 4
    chosen = np.where(directions[order[first]] == right, order[first], order[last])
    return chosen.tolist()


def _rings(successors: list[int], corners: np.ndarray) -> list[list[int]]:
    """Closed walks over the edges, cut where one comes back to a corner."""
    places = (corners[:, 1] * (int(corners[:, 0].max()) + 1) + corners[:, 0]).tolist()
    seen = bytearray(len(successors))
    rings = []
    for start in range(len(successors)):
        walk: list[int] = []
        at: dict[int, int] = {}  # corner -> its position in the walk
        edge = start
        while not seen[edge]:
            seen[edge] = 1
            if places[edge] in at:
                cut = at[places[edge]]
                rings.append(walk[cut:])
                for other in walk[cut:]:
                    del at[places[other]]
                del walk[cut:]
            at[places[edge]] = len(walk)
            walk.append(edge)
            edge = successors[edge]
        if walk:
            rings.append(walk)
    return rings


def _corners(points: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """The points at which a ring turns."""
    return points[directions != np.roll(directions, 1)]


def _area(points: np.ndarray) -> float:
    """Positive for a ring that is clockwise on the screen."""
    x, y = points[:, 0], points[:, 1]
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2

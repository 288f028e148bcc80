"""Outlines: filled again they are the mask; no ring touches itself; parts and holes are the mask's."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage.draw import polygon2mask

from segcore.formats import mask_polygons


def filled(mask: np.ndarray) -> np.ndarray:
    """The outlines of a mask, filled by scikit-image, which tests pixel centres at whole numbers."""
    result = np.zeros(mask.shape, bool)
    for polygon in mask_polygons(mask):
        part = polygon2mask(mask.shape, polygon.exterior[:, ::-1] - 0.5)
        for hole in polygon.holes:
            part &= ~polygon2mask(mask.shape, hole[:, ::-1] - 0.5)
        assert not (result & part).any(), "parts overlap"
        result |= part
    return result


@pytest.mark.parametrize("density", [0.2, 0.5, 0.6, 0.8])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 1), (13, 17), (32, 24)])
def test_filling_gives_the_mask_back(density: float, shape: tuple[int, int]):
    rng = np.random.default_rng(0)
    for _ in range(5):
        mask = rng.random(shape) < density
        assert np.array_equal(filled(mask), mask)


def test_parts_are_those_that_are_connected_through_sides():
    mask = np.random.default_rng(1).random((40, 40)) < 0.55
    count, _ = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    assert len(mask_polygons(mask)) == count - 1


def test_a_square_by_hand():
    mask = np.zeros((5, 6), bool)
    mask[1:4, 2:5] = True
    mask[2, 3] = False
    (square,) = mask_polygons(mask)
    assert square.exterior.tolist() == [[2, 1], [5, 1], [5, 4], [2, 4]]
    assert {tuple(point) for point in square.holes[0].tolist()} == {(3, 2), (4, 2), (4, 3), (3, 3)}


def test_parts_and_holes_that_touch_in_a_corner():
    diagonal = np.eye(3, dtype=bool)
    assert [len(polygon.exterior) for polygon in mask_polygons(diagonal)] == [4, 4, 4]
    ring = np.ones((4, 4), bool)
    ring[1, 1] = ring[2, 2] = False  # two holes that share a corner
    (polygon,) = mask_polygons(ring)
    assert len(polygon.holes) == 2
    open_ring = np.ones((3, 3), bool)
    open_ring[1, 1] = open_ring[0, 0] = False  # the hole touches the outside in a corner
    (polygon,) = mask_polygons(open_ring)
    for points in polygon.rings:
        assert len({tuple(p) for p in points.tolist()}) == len(points)


def test_an_empty_mask_has_none():
    assert mask_polygons(np.zeros((3, 4), bool)) == []
    with pytest.raises(ValueError, match="a mask is"):
        mask_polygons(np.zeros((3, 4), np.uint8))

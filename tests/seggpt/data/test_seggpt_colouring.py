"""Random colours: far enough apart, uniform otherwise; fixed ones: a function of the class."""

from __future__ import annotations

import numpy as np
import pytest

from seggpt.data.colouring import fixed_colours, random_colours


def test_distances_hold_and_episodes_differ():
    rng = np.random.default_rng(0)
    tables = [random_colours(rng, 20, 60) for _ in range(30)]
    for table in tables:
        points = np.concatenate([np.zeros((1, 3)), table.astype(int)])
        apart = np.abs(points[:, None] - points[None]).sum(-1)
        assert apart[~np.eye(21, dtype=bool)].min() >= 60
    first = np.array([table[0] for table in tables])
    assert np.abs(first[:-1] - first[1:].astype(int)).sum(1).min() > 0
    assert np.abs(np.concatenate(tables).mean(0) - 127.5).max() < 25


def test_more_colours_than_fit():
    with pytest.raises(ValueError, match="COLOUR_DISTANCE or MAX_LABELS"):
        random_colours(np.random.default_rng(0), 50, 300)


@pytest.mark.parametrize("classes", [1, 3, 8, 9, 133, 150, 961])
def test_fixed_colours_are_distinct_and_not_black(classes):
    colours = fixed_colours(classes)
    assert colours.shape == (classes, 3) and len(np.unique(colours, axis=0)) == classes
    assert colours.sum(1).min() > 0


def test_fixed_colours_of_150_classes_are_painters():
    # levels 255 - 42 i, six per channel: class c has (c // 36, c % 36 // 6, c % 6)
    colours = fixed_colours(150)
    assert fixed_colours(133, 7)[132].tolist() == [255 - 36 * 2, 255 - 36 * 4, 255 - 36 * 6]  # COCO's: seven levels
    for c in (0, 1, 37, 149):
        assert colours[c].tolist() == [255 - 42 * (c // 36), 255 - 42 * (c % 36 // 6), 255 - 42 * (c % 6)]


def test_few_classes_are_far_apart():
    for classes in range(2, 8):
        colours = fixed_colours(classes).astype(int)
        apart = np.abs(colours[:, None] - colours[None]).sum(-1)[~np.eye(classes, dtype=bool)]
        assert apart.min() >= 255 and colours.sum(1).min() >= 255
    with pytest.raises(ValueError, match="LEVELS is 2: that is no palette of 9 colours"):
        fixed_colours(9, 2)

"""The masks of training: the original generator's, bit by bit, and the share that they hide."""

from __future__ import annotations

import random

import numpy as np
import pytest

from seggpt.data.masking import block_mask, half_mask


def masks(count: int, rows: int = 56, cols: int = 28, ratio: float = 0.5) -> list[np.ndarray]:
    rectangles, patches = random.Random(0), np.random.RandomState(0)
    return [block_mask(rows, cols, ratio, rectangles, patches) for _ in range(count)]


def test_the_originals_first_masks(golden):
    expected = golden["masking/painter_blockwise_first4"].numpy().astype(bool)
    assert (np.stack(masks(4)) == expected).all()


def test_the_originals_distribution(golden_facts):
    facts = golden_facts["notes"]["masking_200"]
    drawn = np.stack(masks(200))
    lower = drawn[:, 28:].mean((1, 2))
    assert drawn.mean() == pytest.approx(facts["masked_fraction"])
    assert lower.mean() == pytest.approx(facts["bottom_half"])
    assert lower.std() == pytest.approx(facts["bottom_half_std"])


@pytest.mark.parametrize("rows,cols,ratio", [(16, 8, 0.5), (16, 8, 0.75), (2, 1, 0.5), (4, 3, 0.0), (4, 3, 1.0)])
def test_the_share_is_exact(rows, cols, ratio):
    for mask in masks(20, rows, cols, ratio):
        assert mask.sum() == int(rows * cols * ratio)


def test_the_half_mask_is_the_query():
    mask = half_mask(6, 2)
    assert not mask[:3].any() and mask[3:].all()

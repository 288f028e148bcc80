"""Counting pairs of labels: both forms against a loop over pixels."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from segcore.evaluation.pairs import pair_counts
from segcore.ops import use_backend

BACKENDS = [pytest.param("cpu", marks=pytest.mark.ext), "torch"]


def expected(first, second):
    return Counter(zip(first.ravel().tolist(), second.ravel().tolist()))


def counted(first, second, backend):
    with use_backend(backend):
        columns = [values.tolist() for values in pair_counts(first, second)]
    pairs = dict(zip(zip(*columns[:2]), columns[2]))
    assert len(pairs) == len(columns[2])  # each pair once
    return pairs


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtypes", ["u1 u1", "i4 i4", "u4 u4", "i8 i8", "u2 u2", "u1 i4", "i8 u2", "i1 i1", "i1 u2"])
@pytest.mark.parametrize("size", [(1, 1), (3, 129), (64, 67)])
def test_labels_of_any_width(dtypes, size, backend):
    rng = np.random.default_rng(0)
    for run in (1, 5, 300):  # noise, short runs, long runs
        maps = []
        for dtype in dtypes.split():
            bounds = np.iinfo(dtype)
            labels = rng.integers(bounds.min, bounds.max, 40, dtype=dtype, endpoint=True)
            places = np.repeat(rng.integers(0, 40, size[0] * size[1] // run + 1), run)[: size[0] * size[1]]
            maps.append(labels[places].reshape(size))
        assert counted(*maps, backend) == expected(*maps)


@pytest.mark.parametrize("backend", BACKENDS)
def test_more_pairs_than_a_small_table_holds(backend):
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 90, (2, 100, 300), dtype=np.int32)
    assert counted(first, second, backend) == expected(first, second)


@pytest.mark.parametrize("backend", BACKENDS)
def test_views_read_only_and_empty_maps(backend):
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 3, (2, 20, 30), dtype=np.int32)
    second.flags.writeable = False
    assert counted(first[:, ::-1], second[::2].repeat(2, 0), backend) == expected(
        first[:, ::-1], second[::2].repeat(2, 0)
    )
    assert counted(first.T, second.T, backend) == expected(first.T, second.T)
    assert counted(first[:0], second[:0], backend) == {}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtypes", [(">i4", "<i4"), (">u2", ">u2"), ("<i8", ">u4"), ("u1", ">i2")])
def test_maps_of_another_byte_order(dtypes, backend):
    rng = np.random.default_rng(0)
    maps = [rng.integers(0, 3, (9, 70)).astype(dtype) + np.iinfo(dtype).max - 3 for dtype in dtypes]
    maps = [labels.astype(dtype) for labels, dtype in zip(maps, dtypes)]
    assert counted(*maps, backend) == expected(*maps)

"""Index maps: against np.unique, and the ids that must be refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from segcore.data.images import read_panoptic_ids
from segcore.data.segments import index_map, pack, unpack
from segcore.ops import use_backend

BACKENDS = [pytest.param("cpu", marks=pytest.mark.ext), "torch"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("count", [1, 255, 256, 3000])
def test_index_map(count, backend):
    rng = np.random.default_rng(count)
    listed = rng.choice(np.arange(1, 1 << 24), count, replace=False).tolist()
    expected = rng.integers(0, count + 1, (31, 47))
    ids = np.array([0, *listed], np.int32)[expected]
    with use_backend(backend):
        indices = index_map(ids, listed, "x.png")
    assert indices.dtype == (np.uint8 if count <= 255 else np.uint16)
    assert (indices == expected).all()
    assert pack(indices).dtype == np.uint8
    assert (unpack(pack(indices)) == expected).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ([1], r"x\.png has pixels of 2 segment ids .*\(2, 3\)"),
        ([1, 2, 3, 3], "twice"),
        ([0, 1, 2, 3], "segment id 0"),
        ([1, 2, 3, 1 << 24], "segment id 16777216"),
    ],
)
def test_refused(listed, message, backend):
    with use_backend(backend), pytest.raises(ValueError, match=message):
        index_map(np.array([[0, 1], [2, 3]], np.int32), listed, "x.png")


def test_png_ids(tmp_path):
    ids = np.array([[0, 1, 255], [256, 65536, (1 << 24) - 1]])
    path = tmp_path / "pan.png"
    Image.fromarray(np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)).save(path)
    assert (read_panoptic_ids(str(path)) == ids).all()

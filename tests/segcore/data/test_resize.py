"""A window of a resized picture against Pillow's resize of the whole, and against Detectron2's two steps."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import transforms as T
from PIL import Image

from segcore.data.resize import ResizeAndCrop, resize_window
from segcore.ops import use_backend

BACKENDS = [pytest.param("cpu", marks=pytest.mark.ext), "torch"]
KINDS = {False: Image.Resampling.BILINEAR, True: Image.Resampling.NEAREST}


def whole(picture, size, nearest):
    return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), KINDS[nearest]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("nearest", [False, True])
def test_a_window_is_that_of_the_whole(backend, nearest):
    rng = np.random.default_rng(0)
    for trial in range(200):
        height, width = rng.integers(1, 120, 2).tolist()
        size = tuple(rng.integers(1, 200, 2).tolist())
        if trial % 4 == 0:  # to whole multiples and parts, where coefficients are exact
            size = (height * int(rng.integers(1, 4)), max(1, width // int(rng.integers(1, 6))))
        picture = rng.integers(0, 256, (height, width, 3) if trial % 3 else (height, width)).astype(np.uint8)
        if trial % 5 == 0:  # the ends of the range
            picture = np.where(picture > 127, np.uint8(255), np.uint8(0))
        rows, columns = (int(rng.integers(1, side + 1)) for side in size)
        top, left = int(rng.integers(0, size[0] - rows + 1)), int(rng.integers(0, size[1] - columns + 1))
        with use_backend(backend):
            window = resize_window(picture, size, (top, left, rows, columns), nearest=nearest)
        expected = whole(picture, size, nearest)[top : top + rows, left : left + columns]
        assert window.shape == expected.shape
        assert (window == expected).all(), f"{picture.shape} to {size}, {(top, left, rows, columns)}"


@pytest.mark.parametrize("backend", BACKENDS)
def test_views_and_memory_that_is_read_only(backend):
    picture = np.random.default_rng(0).integers(0, 256, (9, 13, 3)).astype(np.uint8)
    frozen = picture.copy()
    frozen.flags.writeable = False
    with use_backend(backend):
        for view in (picture[:, ::-1], picture[::-1], picture[::2], frozen, picture[:1, :1][::-1]):
            window = resize_window(view, (20, 17), (1, 2, 3, 4))
            assert (window == whole(np.ascontiguousarray(view), (20, 17), False)[1:4, 2:6]).all()


@pytest.mark.parametrize("window", [(-1, 0, 2, 2), (0, 0, 0, 2), (3, 0, 2, 2), (0, 4, 2, 2)])
def test_a_window_outside(window):
    with pytest.raises(ValueError, match="not inside"):
        resize_window(np.zeros((2, 2, 3), np.uint8), (4, 5), window)


@pytest.mark.parametrize(
    ("resize", "crop"),
    [
        (T.ResizeShortestEdge([24, 48, 96], 200, "choice"), T.RandomCrop("absolute", (32, 40))),
        (T.ResizeShortestEdge([24, 48, 96], 200, "choice"), T.RandomCrop("relative_range", (0.3, 0.4))),
        (T.ResizeScale(0.1, 2.0, 64, 64), T.FixedSizeCrop((64, 64), seg_pad_value=0)),
        (T.ResizeShortestEdge([0], 200, "choice"), T.RandomCrop("absolute", (8, 9))),
    ],
    ids=["absolute", "relative range", "fixed size", "no resize"],
)
def test_the_same_as_one_after_the_other(resize, crop):
    rng = np.random.default_rng(0)
    for seed in range(12):
        picture = rng.integers(0, 256, (60, 80, 3)).astype(np.uint8)
        labels, wide = picture[..., 0].copy(), picture[..., 1].astype(np.float32)
        outputs = []
        for steps in ([resize, crop], [ResizeAndCrop(resize, crop)]):
            np.random.seed(seed)
            augmented = T.AugInput(picture.copy(), sem_seg=labels.copy())
            transforms = T.AugmentationList(steps)(augmented)
            points = transforms.apply_coords(np.array([[3.0, 5.0], [70.0, 11.0]]))
            outputs.append(
                (augmented.image, augmented.sem_seg, transforms.apply_segmentation(wide), points, np.random.rand())
            )
        assert all(np.array_equal(a, b) for a, b in zip(*outputs))

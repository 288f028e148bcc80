"""Crops, flips and colours of a picture and its label map; labels are never interpolated.

Sizes are (height, width). Pictures (H, W, 3) uint8, label maps (H, W) int32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import ColorJitter


class Box(NamedTuple):
    """A crop: rows top to top + height, columns left to left + width."""

    top: int
    left: int
    height: int
    width: int


def random_box(
    rng: np.random.Generator, size: tuple[int, int], scale: Sequence[float], ratio: Sequence[float]
) -> Box:
    """A random part of a picture (Inception's crop, arXiv:1409.4842).

    Args:
        scale: range of the part's share of the area. ratio: range of width / height, drawn log-uniformly;
            what does not fit in ten tries becomes the largest central part of an allowed ratio.
    """
    height, width = size
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return Box(int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w)
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def resize_picture(image: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """A part of a picture at another size, bicubic with antialiasing."""
    corners = (box.left, box.top, box.left + box.width, box.top + box.height)
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC, box=corners))


def resize_labels(labels: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """A part of a map (H, W) or (H, W, C) at another size, nearest neighbour of the pixel centres."""
    rows = box.top + ((np.arange(size[0]) + 0.5) * (box.height / size[0])).astype(np.int64)
    cols = box.left + ((np.arange(size[1]) + 0.5) * (box.width / size[1])).astype(np.int64)
    return labels[rows[:, None], cols[None]]


class View:
    """A random view of a picture and its labels at a fixed size.

    Args:
        size: (height, width) of the view.
        scale, ratio: of the crop, see `random_box`.
        flip: probability of a mirror image.
        jitter: brightness, contrast, saturation, hue, as torchvision's ColorJitter takes them.
        jitter_prob: probability that the colours are jittered; the labels never are.
    """

    def __init__(self, size, scale, ratio, flip: float, jitter: Sequence[float], jitter_prob: float):
        self.size = tuple(size)
        self.scale, self.ratio = tuple(scale), tuple(ratio)
        self.flip, self.jitter_prob = flip, jitter_prob
        self.jitter = ColorJitter(*jitter)

    def __call__(self, rng: np.random.Generator, image: np.ndarray, labels: np.ndarray):
        """-> picture (h, w, 3) uint8, labels (h, w) int32."""
        box = random_box(rng, labels.shape, self.scale, self.ratio)
        image, labels = resize_picture(image, box, self.size), resize_labels(labels, box, self.size)
        if rng.random() < self.flip:
            image, labels = image[:, ::-1], labels[:, ::-1]
        if rng.random() < self.jitter_prob:
            torch.manual_seed(int(rng.integers(1 << 62)))
            image = np.asarray(self.jitter(Image.fromarray(np.ascontiguousarray(image))))
        return np.ascontiguousarray(image), np.ascontiguousarray(labels)

"""Layered masks: the same as the masks that they stand for."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from detectron2.structures import Instances

from segcore.masks import LayeredMasks


def layered(seed=0, count=5, layers=2, size=(7, 9), dtype=torch.uint8):
    """Random maps, and the same masks worked out pixel by pixel."""
    rng = np.random.default_rng(seed)
    maps = rng.integers(0, count + 1, (layers, *size))
    layer, number = rng.integers(0, layers, count), np.arange(count)
    masks = np.zeros((count, *size), bool)
    for m in range(count):
        for y in range(size[0]):
            for x in range(size[1]):
                masks[m, y, x] = maps[layer[m], y, x] == number[m]
    return LayeredMasks(torch.from_numpy(maps).to(dtype), torch.from_numpy(layer), torch.from_numpy(number)), masks


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_stands_for_its_masks(dtype):
    ours, masks = layered(dtype=dtype)
    assert ours.shape == masks.shape and ours.dtype == torch.bool and len(ours) == 5
    assert (ours.numpy() == masks).all() and (np.asarray(ours) == masks).all()
    assert torch.equal(ours, torch.from_numpy(masks))
    assert (ours[2].numpy() == masks[2]).all()
    for item in (slice(1, 4), torch.tensor([4, 0]), torch.from_numpy(masks[:, 0, 0])):
        assert (ours[item].numpy() == masks[item]).all()
    instances = Instances(masks.shape[1:], gt_masks=ours, gt_classes=torch.arange(5)).to("cpu")
    some = instances[instances.gt_classes > 2]
    assert (some.gt_masks.numpy() == masks[3:]).all()


def test_overlapping_tensor_and_join():
    ours, masks = layered()
    other, more = layered(1, count=3, layers=1, dtype=torch.int32)
    overlapping = LayeredMasks.from_tensor(torch.from_numpy(masks | masks[::-1]))
    assert (overlapping.numpy() == (masks | masks[::-1])).all()
    joined = LayeredMasks.join([ours, other, overlapping])
    assert (joined.numpy() == np.concatenate([masks, more, masks | masks[::-1]])).all()
    assert LayeredMasks.from_tensor(torch.zeros(0, 4, 5, dtype=torch.bool)).shape == (0, 4, 5)


def test_a_byte_per_pixel_is_handed_over():
    maps = torch.zeros(1, 64, 64, dtype=torch.uint8)
    many = LayeredMasks(maps, torch.zeros(200, dtype=torch.int64), torch.arange(200))
    assert len(pickle.dumps(many)) < 64 * 64 + 200 * 16 + 2000


def test_wrong_shapes():
    with pytest.raises(ValueError, match=r"\(L, H, W\)"):
        LayeredMasks(torch.zeros(4, 5), torch.zeros(2), torch.zeros(3))

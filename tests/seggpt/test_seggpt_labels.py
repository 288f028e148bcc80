"""Masks of every kind to labels, labels to colours, colours back to labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from seggpt.colours import (
    MAX_LABELS,
    MIN_DISTANCE,
    davis_palette,
    label_pixels,
    paint_labels,
    palette,
    read_painting,
)
from seggpt.labels import PickedMasks, check_count, read_mask, unify

SIZE = (6, 8)
BOX = np.zeros(SIZE, bool)
BOX[1:4, 2:6] = True


def labels_of(mask, kind="instance"):
    return read_mask(mask, SIZE, kind)


@pytest.mark.parametrize(
    "mask",
    [
        BOX,
        BOX.astype(np.int64),
        BOX * np.uint8(255),
        torch.from_numpy(BOX),
        Image.fromarray(BOX * np.uint8(255)),
        np.repeat(BOX[..., None] * np.uint8(255), 3, 2),
        BOX[None],
        [{"segmentation": coco_mask.encode(np.asfortranarray(BOX.astype(np.uint8)))}],
        [{"segmentation": [[2, 1, 6, 1, 6, 4, 2, 4]]}],
        PickedMasks(np.stack([np.ones(SIZE, bool), BOX]), [(3, 2)]),
        PickedMasks(BOX * 3, [(3.5, 2.5)]),
    ],
    ids=range(11),
)
def test_one_object_in_every_form(mask):
    assert np.array_equal(labels_of(mask), BOX.astype(np.int32))


def test_label_maps_keep_their_numbers_and_lose_void():
    mask = np.zeros(SIZE, np.uint8)
    mask[0], mask[1], mask[2] = 7, 3, 255
    assert np.unique(labels_of(mask)).tolist() == [0, 3, 7]
    maps, labels, colours = unify([labels_of(mask), labels_of(BOX)])
    assert labels.tolist() == [1, 3, 7] and colours is None and len(maps) == 2


def test_stacked_masks_and_annotations_are_numbered():
    other = np.zeros(SIZE, bool)
    other[5] = True
    assert np.array_equal(labels_of(np.stack([BOX, other])), BOX + 2 * other)
    annotations = [
        {"segmentation": coco_mask.encode(np.asfortranarray(m.astype(np.uint8))), "category_id": 9}
        for m in (BOX, other)
    ]
    assert np.array_equal(labels_of(annotations), BOX + 2 * other)
    assert np.array_equal(labels_of(annotations, "semantic"), 9 * (BOX | other))


def test_paintings_share_colours_over_prompts():
    red, blue = np.zeros((2, *SIZE, 3), np.uint8)
    red[BOX], blue[BOX], blue[5] = (200, 0, 0), (0, 0, 255), (200, 0, 0)
    maps, labels, colours = unify([labels_of(red), labels_of(blue)])
    assert labels.tolist() == [1, 2] and colours.tolist() == [[0, 0, 255], [200, 0, 0]]
    assert np.array_equal(maps[0], 2 * BOX)
    assert np.array_equal(paint_labels(maps[1], labels, colours), blue)


@pytest.mark.parametrize(
    "mask, error, words",
    [
        (np.zeros((6, 7), bool), ValueError, "7x6 pixels but its image 8x6"),
        (np.zeros(SIZE, bool), ValueError, "empty"),
        (np.full(SIZE, 255, np.uint16), ValueError, "empty"),
        ([], ValueError, "empty"),
        (np.zeros((*SIZE, 4), np.uint8), ValueError, "alpha"),
        (np.zeros(SIZE), TypeError, "threshold"),
        (np.full(SIZE, -1), ValueError, "negative"),
        ("mask.png", TypeError, "str"),
        (np.zeros((2, 2, *SIZE), bool), ValueError, "shape"),
        ([{"bbox": [0, 0, 1, 1]}], ValueError, "segmentation"),
        ([{"segmentation": [[0, 0, 1, 1]]}], ValueError, "corners"),
        (PickedMasks(BOX[None], [(0, 0)]), ValueError, "none of the 1 masks"),
        (PickedMasks(BOX[None], [(9, 0)]), ValueError, "outside"),
        (PickedMasks(BOX[None], []), ValueError, "no points"),
    ],
    ids=range(14),
)
def test_what_is_no_mask_is_refused(mask, error, words):
    with pytest.raises(error, match=words):
        labels_of(mask)


def test_too_many_or_too_similar_colours_are_refused():
    with pytest.raises(ValueError, match=f"{MAX_LABELS + 1} labels"):
        check_count(MAX_LABELS + 1, separate=False)
    check_count(MAX_LABELS + 1, separate=True)
    soft = np.zeros((*SIZE, 3), np.uint8)
    soft[BOX], soft[5] = (200, 10, 0), (190, 0, 0)
    with pytest.raises(ValueError, match="apart"):
        unify([labels_of(soft)])
    many = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(*SIZE, 3)
    with pytest.raises(ValueError, match="apart"):
        unify([labels_of(many)])
    with pytest.raises(ValueError, match="in one form"):
        unify([labels_of(soft), labels_of(BOX)])


def test_the_palette_is_distinct_and_nested():
    colours = palette(MAX_LABELS).astype(float)
    distance = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + 1e9 * np.eye(MAX_LABELS)
    assert distance.min() >= MIN_DISTANCE and np.linalg.norm(colours, axis=1).min() >= MIN_DISTANCE
    assert palette(1).tolist() == [[255, 255, 255]]
    assert np.array_equal(palette(9), palette(MAX_LABELS)[:9])


@pytest.mark.parametrize("count", [2, 4, 7])
def test_soft_edges_are_never_a_third_label(count):
    """Blends of two neighbours, as resizing makes them, read as one of the two."""
    colours = torch.from_numpy(palette(count))
    ends = torch.cat([torch.zeros(1, 3), colours.float()])
    blend = torch.arange(0.01, 1, 0.02).view(-1, 1)   # leaves out the middle, where all may be equally near
    for i in range(count + 1):
        for j in range(i):
            painting = (ends[i] * blend + ends[j] * (1 - blend)).t()[:, None]
            found = label_pixels(read_painting(painting, colours), torch.arange(1, count + 1))
            assert set(found.flatten().tolist()) <= {i, j}


def test_painting_and_reading_back_is_the_identity():
    rng = np.random.default_rng(0)
    labels = np.array([2, 40, 41, 900, 1])
    label_map = rng.choice(np.append(labels, 0), (20, 30))
    colours = palette(5)
    painting = torch.from_numpy(paint_labels(label_map, labels, colours)).permute(2, 0, 1)
    noisy = painting + torch.from_numpy(rng.uniform(-20, 20, painting.shape))
    scores = read_painting(noisy, torch.from_numpy(colours))
    assert np.array_equal(label_pixels(scores, torch.from_numpy(labels)).numpy(), label_map)


def test_a_grey_painting_scores_its_intensity():
    grey = torch.arange(256).expand(3, 1, 256)
    score = read_painting(grey, torch.tensor([[255, 255, 255]]))[0, 0]
    assert (score - torch.arange(256) / 255).abs().max() < 1e-6
    assert label_pixels(score.view(1, 1, -1), torch.tensor([5])).flatten().tolist() == [0] * 128 + [5] * 128


def test_davis_colours():
    assert davis_palette()[:15] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128]
    assert len(davis_palette()) == 768

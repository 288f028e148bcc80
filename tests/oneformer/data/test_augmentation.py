"""The colour jitter against a pixel-by-pixel reading of SSD's, padding, and recipes with nothing optional."""

from __future__ import annotations

import random

import cv2
import numpy as np
import pytest
from detectron2.data import transforms as T

from oneformer.data.augmentation import ColorJitterSSD, PadToMultiple, lsj, resize_crop


def jitter_by_steps(image):
    """Each step drawn and applied in turn, in BGR and float32."""

    def scaled(values, alpha=1.0, beta=0.0):
        return np.clip(values.astype(np.float32) * alpha + beta, 0, 255).astype(np.uint8)

    def contrast(img):
        return scaled(img, alpha=random.uniform(0.5, 1.5)) if random.randrange(2) else img

    def saturation(img):
        if random.randrange(2):
            hsv = cv2.cvtColor(img, cv2.COLOR_BGR2HSV)
            hsv[..., 1] = scaled(hsv[..., 1], alpha=random.uniform(0.5, 1.5))
            img = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
        return img

    def hue(img):
        if random.randrange(2):
            hsv = cv2.cvtColor(img, cv2.COLOR_BGR2HSV)
            hsv[..., 0] = (hsv[..., 0].astype(int) + random.randint(-18, 18)) % 180
            img = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
        return img

    image = image[..., ::-1]
    if random.randrange(2):
        image = scaled(image, beta=random.uniform(-32, 32))
    steps = (contrast, saturation, hue) if random.randrange(2) else (saturation, hue, contrast)
    for step in steps:
        image = step(np.ascontiguousarray(image))
    return image[..., ::-1]


@pytest.mark.parametrize("seed", range(24))
def test_color_jitter(seed):
    image = np.random.default_rng(seed).integers(0, 256, (16, 17, 3), dtype=np.uint8)
    random.seed(seed)
    expected = jitter_by_steps(image)
    random.seed(seed)
    for_rgb = ColorJitterSSD("RGB").get_transform(image).apply_image(image)
    random.seed(seed)
    for_bgr = ColorJitterSSD("BGR").get_transform(image).apply_image(image[..., ::-1])[..., ::-1]
    assert (for_rgb == expected).all()
    assert (for_bgr == expected).all()


def test_color_jitter_changes_most_images_and_no_map():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    labels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    random.seed(0)
    transforms = [ColorJitterSSD().get_transform(image) for _ in range(50)]
    changed = [not np.array_equal(t.apply_image(image), image) for t in transforms]
    assert sum(changed) > 35  # all four gates stay shut in one of 16
    assert all(np.array_equal(t.apply_segmentation(labels), labels) for t in transforms)


def test_unknown_channel_order():
    with pytest.raises(ValueError, match="'YUV'"):
        ColorJitterSSD("YUV")


@pytest.mark.parametrize(("size", "padded"), [((5, 7), (8, 8)), ((8, 16), (8, 16)), ((9, 1), (16, 8))])
def test_padding(size, padded):
    aug_input = T.AugInput(np.zeros((*size, 3), np.uint8), sem_seg=np.ones(size, np.uint8))
    PadToMultiple(8)(aug_input)
    assert aug_input.image.shape == (*padded, 3)
    assert aug_input.sem_seg.shape == padded
    assert aug_input.sem_seg.sum() == size[0] * size[1]
    outside = aug_input.sem_seg == 0
    assert (aug_input.image[outside] == 128).all()


def test_recipes_without_options_only_resize():
    plain = resize_crop(
        min_sizes=[8], max_size=99, sampling="choice", crop=None, color_jitter=False, pad_to=-1, flip="none"
    )
    assert len(plain) == 1
    scaled = lsj(image_size=8, min_scale=1.0, max_scale=1.0, flip="none")
    image = np.full((4, 2, 3), 9, np.uint8)
    aug_input = T.AugInput(image)
    T.AugmentationList(scaled)(aug_input)
    assert (aug_input.image[:, :4] == 9).all()
    assert (aug_input.image[:, 4:] == 128).all()


def test_unknown_flip():
    with pytest.raises(ValueError, match="RANDOM_FLIP"):
        lsj(image_size=8, min_scale=1.0, max_scale=1.0, flip="diagonal")

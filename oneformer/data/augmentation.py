"""Augmentation recipes: lists of Detectron2 augmentations, chosen by INPUT.RECIPE.

`resize_crop` is the recipe of ADE20K, Cityscapes and Mapillary Vistas, `lsj`
(large-scale jittering, arXiv:2012.07177) that of COCO.  The random numbers are
drawn as the official mappers draw them, so that equal seeds give equal pictures.
Maps are index maps (segcore.data.segments), in which 0 is void.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from detectron2.data import transforms as T
from fvcore.transforms.transform import NoOpTransform, PadTransform, Transform

from segcore.data.images import contiguous
from segcore.data.resize import ResizeAndCrop

_IMAGE_PAD = 128
_VOID = 0


def resize_crop(
    *,
    min_sizes: Sequence[int],
    max_size: int,
    sampling: str,
    crop: tuple[str, Sequence[float]] | None,
    color_jitter: bool,
    pad_to: int,
    channel_order: str = "RGB",
    flip: str = "horizontal",
) -> list[T.Augmentation]:
    """Resize the shorter side, crop, jitter the colours, flip, pad.

    Args:
        min_sizes, max_size, sampling: of Detectron2's ResizeShortestEdge.
        crop: (type, size) of Detectron2's RandomCrop, or None.
        color_jitter: whether to change brightness, contrast, saturation and hue.
        pad_to: right and bottom are padded to a multiple of it; not positive: no padding.
        channel_order: "RGB" or "BGR".
        flip: "horizontal", "vertical" or "none".
    """
    resize = ResizeShortestEdge(min_sizes, max_size, sampling)
    steps: list[T.Augmentation] = [resize if crop is None else ResizeAndCrop(resize, T.RandomCrop(*crop))]
    if color_jitter:
        steps.append(ColorJitterSSD(channel_order))
    steps += _flips(flip)
    if pad_to > 0:
        steps.append(PadToMultiple(pad_to))
    return steps


def lsj(
    *, image_size: int, min_scale: float, max_scale: float, flip: str = "horizontal"
) -> list[T.Augmentation]:
    """Flip, scale by a factor from [min_scale, max_scale], crop or pad to a square of `image_size`."""
    resize = ResizeScale(min_scale, max_scale, image_size, image_size)
    crop = T.FixedSizeCrop((image_size, image_size), pad_value=_IMAGE_PAD, seg_pad_value=_VOID)
    return [*_flips(flip), ResizeAndCrop(resize, crop)]


def _resize_crop_arguments(cfg) -> dict:
    c = cfg.INPUT
    return {
        "min_sizes": c.MIN_SIZE_TRAIN,
        "max_size": c.MAX_SIZE_TRAIN,
        "sampling": c.MIN_SIZE_TRAIN_SAMPLING,
        "crop": (c.CROP.TYPE, c.CROP.SIZE) if c.CROP.ENABLED else None,
        "color_jitter": c.COLOR_AUG_SSD,
        "pad_to": c.SIZE_DIVISIBILITY,
        "channel_order": c.FORMAT,
        "flip": c.RANDOM_FLIP,
    }


def _lsj_arguments(cfg) -> dict:
    c = cfg.INPUT
    return {
        "image_size": c.IMAGE_SIZE,
        "min_scale": c.MIN_SCALE,
        "max_scale": c.MAX_SCALE,
        "flip": c.RANDOM_FLIP,
    }


# name -> (recipe, its arguments from the config); a new recipe is one more entry
RECIPES: dict[str, tuple[Callable[..., list], Callable[..., dict]]] = {
    "resize_crop": (resize_crop, _resize_crop_arguments),
    "lsj": (lsj, _lsj_arguments),
}


def build_recipe(cfg) -> list[T.Augmentation]:
    """The augmentations that INPUT.RECIPE names.

    Raises:
        ValueError: no recipe of that name.
    """
    if cfg.INPUT.RECIPE not in RECIPES:
        raise ValueError(f"INPUT.RECIPE is {cfg.INPUT.RECIPE!r}; choose one of {', '.join(RECIPES)}")
    recipe, arguments = RECIPES[cfg.INPUT.RECIPE]
    return recipe(**arguments(cfg))


def _flips(flip: str) -> list[T.Augmentation]:
    if flip not in ("horizontal", "vertical", "none"):
        raise ValueError(f'INPUT.RANDOM_FLIP is {flip!r}; choose "horizontal", "vertical" or "none"')
    if flip == "none":
        return []
    return [T.RandomFlip(horizontal=flip == "horizontal", vertical=flip == "vertical")]


class _OnePixelAtLeast:
    """A resize of a very long picture keeps at least one pixel of its shorter side."""

    def get_transform(self, image: np.ndarray) -> Transform:
        resize = super().get_transform(image)
        if isinstance(resize, NoOpTransform) or min(resize.new_h, resize.new_w) > 0:
            return resize
        return T.ResizeTransform(
            resize.h, resize.w, max(resize.new_h, 1), max(resize.new_w, 1), resize.interp
        )


class ResizeShortestEdge(_OnePixelAtLeast, T.ResizeShortestEdge):
    pass


class ResizeScale(_OnePixelAtLeast, T.ResizeScale):
    pass


class PadToMultiple(T.Augmentation):
    """Pad right and bottom to a multiple of `size`: grey in the image, void in the map."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        right, bottom = -width % self.size, -height % self.size
        if not (right or bottom):
            return NoOpTransform()  # PadTransform would copy
        return _Pad(
            0, 0, right, bottom, orig_w=width, orig_h=height, pad_value=_IMAGE_PAD, seg_pad_value=_VOID
        )


class _Pad(PadTransform):
    """Padding of byte pictures by OpenCV, five times as fast."""

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return self._bordered(img, self.pad_value)

    def apply_segmentation(self, img: np.ndarray) -> np.ndarray:
        return self._bordered(img, self.seg_pad_value)

    def _bordered(self, img: np.ndarray, value: float) -> np.ndarray:
        border = (self.y0, self.y1, self.x0, self.x1)
        return cv2.copyMakeBorder(contiguous(img), *border, cv2.BORDER_CONSTANT, value=(value,) * 3)


class ColorJitterSSD(T.Augmentation):
    """Random brightness, contrast, saturation and hue as in SSD (arXiv:1512.02325).

    Each is applied with probability one half; contrast comes before or after the
    two in HSV, at random.  Numbers come from Python's `random`.

    Args:
        channel_order: "RGB" or "BGR".
        brightness: largest shift, in grey levels.
        contrast, saturation: (lowest, highest) factor.
        hue: largest shift, in OpenCV's units of 2 degrees.
    """

    def __init__(
        self,
        channel_order: str = "RGB",
        brightness: float = 32,
        contrast: tuple[float, float] = (0.5, 1.5),
        saturation: tuple[float, float] = (0.5, 1.5),
        hue: int = 18,
    ) -> None:
        super().__init__()
        if channel_order not in ("RGB", "BGR"):
            raise ValueError(f'channel order {channel_order!r}; choose "RGB" or "BGR"')
        self.channel_order = channel_order
        self.brightness, self.contrast, self.saturation, self.hue = brightness, contrast, saturation, hue

    def get_transform(self, image: np.ndarray) -> Transform:
        steps = self._brightness()
        if random.randrange(2):
            draws = (self._contrast, self._saturation, self._hue)
        else:
            draws = (self._saturation, self._hue, self._contrast)
        for draw in draws:
            steps += draw()
        return LookupTransform(steps, self.channel_order)

    # Each of these draws a gate, then a value, and returns no or one step.

    def _brightness(self) -> list[_Step]:
        if not random.randrange(2):
            return []
        return [_Step(None, _table(shift=random.uniform(-self.brightness, self.brightness)))]

    def _contrast(self) -> list[_Step]:
        if not random.randrange(2):
            return []
        return [_Step(None, _table(factor=random.uniform(*self.contrast)))]

    def _saturation(self) -> list[_Step]:
        if not random.randrange(2):
            return []
        return [_Step(1, _table(factor=random.uniform(*self.saturation)))]

    def _hue(self) -> list[_Step]:
        if not random.randrange(2):
            return []
        return [_Step(0, ((np.arange(256) + random.randint(-self.hue, self.hue)) % 180).astype(np.uint8))]


class _Step(NamedTuple):
    """One look-up in a `table` (256,) of bytes: of channel `hsv_channel` in HSV, or of all channels as they are."""

    hsv_channel: int | None
    table: np.ndarray


def _table(factor: float = 1.0, shift: float = 0.0) -> np.ndarray:
    # float32, and cut to integers: as the official code rounds
    return np.clip(np.arange(256, dtype=np.float32) * factor + shift, 0, 255).astype(np.uint8)


class LookupTransform(Transform):
    """Apply table look-ups to the colours of an image; maps and coordinates stay."""

    def __init__(self, steps: list[_Step], channel_order: str) -> None:
        super().__init__()
        self.steps = steps
        self.to_hsv = cv2.COLOR_RGB2HSV if channel_order == "RGB" else cv2.COLOR_BGR2HSV
        self.from_hsv = cv2.COLOR_HSV2RGB if channel_order == "RGB" else cv2.COLOR_HSV2BGR

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        img = np.ascontiguousarray(img)
        for channel, table in self.steps:
            if channel is None:
                img = cv2.LUT(img, table)
                continue
            # Back and forth for each step: the rounding between two steps is part of the recipe.
            hsv = cv2.cvtColor(img, self.to_hsv)
            cv2.insertChannel(cv2.LUT(cv2.extractChannel(hsv, channel), table), hsv, channel)
            img = cv2.cvtColor(hsv, self.from_hsv, hsv)
        return img

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return segmentation

    def inverse(self) -> Transform:
        raise NotImplementedError("a change of colours that clips has no inverse")

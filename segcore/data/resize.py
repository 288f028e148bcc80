"""A window of a resized picture or map, without resizing the rest of it; to the bit what Pillow makes of the whole."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.data import transforms as T
from fvcore.transforms.transform import CropTransform, Transform
from PIL import Image

from segcore.ops.backend import choose_backend

from .images import contiguous, shared_tensor


def resize_window(
    picture: np.ndarray, size: tuple[int, int], window: tuple[int, int, int, int], *, nearest: bool = False
) -> np.ndarray:
    """Resize to `size` as Pillow does, bilinear with anti-aliasing, and cut out `window`.

    The compiled operator computes the window alone. Pillow resizes the whole, with the same result, where there is
    no compiled operator, and for a picture that shrinks in height by more than twice as many pixels as in width:
    there it depends on Pillow's version whether rows or columns, and so the rounding between them, come first.

    Args:
        picture: (H, W) or (H, W, 3) uint8.
        size: (height, width) of the whole after resizing.
        window: (top, left, rows, columns) in the resized picture.
        nearest: take the nearest pixel instead, for label maps.

    Returns:
        (rows, columns) or (rows, columns, 3) uint8.

    Raises:
        ValueError: the window is not inside of `size`.
    """
    top, left, rows, columns = window
    if min(top, left) < 0 or min(rows, columns) < 1 or top + rows > size[0] or left + columns > size[1]:
        raise ValueError(f"the window {window} (top, left, rows, columns) is not inside of {size} (height, width)")
    if tuple(size) == picture.shape[:2]:
        return picture[top : top + rows, left : left + columns]
    rows_may_be_first = 0 < picture.shape[0] - size[0] > 2 * (picture.shape[1] - size[1])
    if choose_backend("cpu") != "cpu" or (rows_may_be_first and not nearest):
        kind = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
        whole = np.asarray(Image.fromarray(picture).resize((size[1], size[0]), kind))
        return whole[top : top + rows, left : left + columns]
    operator = torch.ops.segcore_native.resize_nearest if nearest else torch.ops.segcore_native.resize_bilinear
    channels = shared_tensor(contiguous(picture)).view(*picture.shape[:2], -1)
    return operator(channels, *size, *window).numpy().reshape(rows, columns, *picture.shape[2:])


class WindowedResize(Transform):
    """Detectron2's resize of a byte picture followed by a crop, as one step that makes only what the crop keeps.

    Args:
        resize: a bilinear one.
        crop: of the resized picture.
    """

    def __init__(self, resize: T.ResizeTransform, crop: CropTransform) -> None:
        super().__init__()
        self.resize, self.crop = resize, crop
        rows, columns = min(crop.h, resize.new_h - crop.y0), min(crop.w, resize.new_w - crop.x0)
        self.window = (crop.y0, crop.x0, rows, columns)

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        if img.dtype != np.uint8:
            return self.crop.apply_image(self.resize.apply_image(img))
        return resize_window(img, (self.resize.new_h, self.resize.new_w), self.window)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        if segmentation.dtype != np.uint8:
            return self.crop.apply_segmentation(self.resize.apply_segmentation(segmentation))
        return resize_window(segmentation, (self.resize.new_h, self.resize.new_w), self.window, nearest=True)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return self.crop.apply_coords(self.resize.apply_coords(coords))


class ResizeAndCrop(T.Augmentation):
    """Draw a resize, then a crop of what it makes, in the order in which the two alone would be drawn.

    Args:
        resize: its transform is Detectron2's ResizeTransform or NoOpTransform.
        crop: looks at nothing of an image but its size; its transform is a CropTransform, or a list that starts
            with one.
    """

    def __init__(self, resize: T.Augmentation, crop: T.Augmentation) -> None:
        super().__init__()
        self.resize, self.crop = resize, crop

    def get_transform(self, image: np.ndarray) -> Transform:
        resize = self.resize.get_transform(image)
        if not isinstance(resize, T.ResizeTransform):
            return T.TransformList([resize, self.crop.get_transform(image)])
        resized = np.broadcast_to(np.uint8(0), (resize.new_h, resize.new_w, 3))  # a size, no memory
        crop, *others = T.TransformList([self.crop.get_transform(resized)]).transforms
        return T.TransformList([WindowedResize(resize, crop), *others])

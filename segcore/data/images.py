"""Reading pictures and panoptic PNGs, with one clear error for a file that cannot be read."""

from __future__ import annotations

import contextlib
import io
import os
import struct
from collections.abc import Iterator

import cv2
import numpy as np
import torch
from detectron2.data import detection_utils
from PIL import Image

from .png import decode_ids

# What PIL raises on a damaged file depends on where the damage is.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error)
_ORIENTATION = 0x0112  # EXIF; from 5 on height and width change places


def read_image(path: str, image_format: str = "RGB") -> np.ndarray:
    """An image, turned upright as its EXIF says.

    Args:
        path: the file.
        image_format: "RGB" or "BGR".

    Returns:
        (H, W, 3) uint8.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged or no picture.
    """
    with _opened(path, "image", "restore it or remove it from the data set") as picture:
        if picture.mode == "RGB" and picture.getexif().get(_ORIENTATION, 1) == 1:
            pixels = np.asarray(picture)  # Detectron2 would copy it once more
            return pixels if image_format == "RGB" else pixels[..., ::-1]
        return detection_utils.read_image(path, format=image_format)


def contiguous(picture: np.ndarray) -> np.ndarray:
    """The picture in one piece; a mirrored view, as a flip leaves it, is copied by OpenCV, ten times as fast."""
    if picture.dtype == np.uint8 and picture.strides[1] < 0 < picture.strides[0]:
        return cv2.flip(np.ascontiguousarray(picture[:, ::-1]), 1)
    return np.ascontiguousarray(picture)


def shared_tensor(array: np.ndarray) -> torch.Tensor:
    """The array as a tensor, without a copy where torch takes its memory: in one piece and writeable."""
    if array.flags.writeable and array.flags.c_contiguous and min(array.strides, default=0) >= 0:
        return torch.from_numpy(array)
    return torch.from_numpy(array.copy())


def image_size(path: str) -> tuple[int, int]:
    """(height, width) of an image as `read_image` returns it, from its header alone.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged or no picture.
    """
    with _opened(path, "image", "restore it or remove it from the data set") as picture:
        width, height = picture.size
        turned = picture.getexif().get(_ORIENTATION, 1) >= 5
    return (width, height) if turned else (height, width)


def read_pixels(path: str, what: str, remedy: str) -> tuple[str, np.ndarray]:
    """The pixels of a picture file as they are stored, and Pillow's name of their mode.

    Args:
        path: the file.
        what: what it is to hold, for errors.
        remedy: what the user can do, for errors.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged or no picture.
    """
    with _opened(path, what, remedy) as picture:
        return picture.mode, np.asarray(picture)


@contextlib.contextmanager
def _opened(path: str, what: str, remedy: str) -> Iterator[Image.Image]:
    """A picture file, open for reading; what fails inside the block becomes the errors of `read_pixels`."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{what} {path} does not exist; {remedy}")
    try:
        with Image.open(path) as picture:
            yield picture
    except _DAMAGED as error:
        raise ValueError(
            f"cannot read the {what} {path}: {error}; the file is damaged or no picture, {remedy}") from error


def read_label_png(path: str) -> np.ndarray:
    """One integer per pixel: grey of 8 or 16 bits, or the indices of a palette.

    Returns:
        (H, W) uint8, or int32 for pictures of more than 8 bits.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged or a colour picture.
    """
    mode, values = read_pixels(path, "label PNG", "restore it")
    if values.ndim != 2 or values.dtype.kind not in "iub":
        raise ValueError(
            f"{path} is a picture of mode {mode}; a label PNG holds one integer per pixel (grey or palette)"
        )
    return values.astype(np.uint8 if values.dtype.itemsize == 1 else np.int32, copy=False)


def read_panoptic_ids(path: str) -> np.ndarray:
    """The segment ids of a COCO panoptic PNG, R + 256 G + 65536 B.

    Returns:
        (H, W) int32; 0 is void.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, or is not a three-channel 8-bit picture.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"panoptic PNG {path} does not exist")
    with open(path, "rb") as file:
        content = file.read()
    ids = decode_ids(content)
    if ids is not None:
        return ids
    try:
        with Image.open(io.BytesIO(content)) as picture:
            mode, (width, height) = picture.mode, picture.size
            # Four bytes per pixel, as Pillow holds them: an id is one of 32 bits without its fill byte.
            pixels = picture.tobytes("raw", "RGBX") if mode == "RGB" else b""
    except _DAMAGED as error:
        raise ValueError(f"cannot read the panoptic PNG {path}: {error}; the file is damaged, restore it") from error
    if mode != "RGB":
        raise ValueError(
            f"{path} is a picture of mode {mode}; a panoptic PNG is RGB and holds the segment id "
            f"R + 256 G + 65536 B in each pixel"
        )
    return np.frombuffer(pixels, "<i4").reshape(height, width) & 0xFFFFFF

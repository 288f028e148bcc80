"""Any picture that a user may have, as upright 8-bit RGB, or one clear sentence why not."""

from __future__ import annotations

import os
import struct
import warnings

import numpy as np
from PIL import Image, ImageOps

# What PIL raises on a damaged file depends on where the damage is.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error)
_SIXTEEN_BIT = 65535


def read_photo(path: str | os.PathLike) -> np.ndarray:
    """Read a picture once, as a viewer would show it.

    Turned upright as its EXIF says; grey, palette and CMYK become RGB; transparency
    is laid over white; 16-bit grey is scaled to 8 bits; of an animation the first frame.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, no picture, too large to be one, or values without a known range.
    """
    return _to_rgb(open_upright(path), os.fspath(path))


def open_upright(path: str | os.PathLike) -> Image.Image:
    """Read a picture file whole, turned upright as its EXIF says, in the file's own mode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, no picture, or too large to be one.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        what = "is a folder, not an image" if os.path.isdir(path) else "does not exist"
        raise FileNotFoundError(f"image {path} {what}")
    try:
        with warnings.catch_warnings():
            # PIL warns of large pictures from half of the size at which it refuses them.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                picture.load()
                return ImageOps.exif_transpose(picture)
    except Image.DecompressionBombError as error:
        raise ValueError(f"cannot read the image {path}: {error}; scale it down first") from error
    except _DAMAGED as error:
        raise ValueError(f"cannot read the image {path}: {error}; the file is damaged or no picture") from error


def _to_rgb(picture: Image.Image, path: str) -> np.ndarray:
    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        return _from_deep_grey(picture, path)
    if "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return np.array(picture.convert("RGB"))


def _from_deep_grey(picture: Image.Image, path: str) -> np.ndarray:
    """16-bit grey; also where PIL opens it in 32 bits."""
    values = np.asarray(picture)
    if picture.mode == "F" or values.min() < 0 or values.max() > _SIXTEEN_BIT:
        raise ValueError(
            f"cannot show the image {path}: its pixels are {values.dtype} numbers from {values.min():g} to "
            f"{values.max():g}, whose range is unknown; convert it to 8 or 16 bits per channel"
        )
    grey = np.rint(values.astype(np.float32) * (255 / _SIXTEEN_BIT)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)

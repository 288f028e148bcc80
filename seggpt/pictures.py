"""Pictures in and out of the network's canvas: reading, fitting, tiling, spatial ensembles.

Sizes are (height, width); pictures (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from segcore.data.photo import open_upright

FITS = ("squash", "pad")
_LOSSY = (".jpg", ".jpeg", ".jfif")
_PADDING = (124, 116, 104)  # ImageNet's mean colour: zero once normalised


def read_picture(path: str | os.PathLike) -> np.ndarray:
    """An RGB picture file as (H, W, 3) uint8, upright.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it cannot be read, or is grey or has transparency.
    """
    picture = open_upright(path)
    if picture.mode != "RGB":
        raise ValueError(
            f"{path} is a {_describe(picture.mode)} picture ({picture.mode}); the network takes RGB: "
            "convert it, for instance with PIL's .convert('RGB')"
        )
    return np.asarray(picture)


def read_mask_file(path: str | os.PathLike) -> np.ndarray:
    """A mask file as it is: bool, integer (palette indices, grey levels) or RGB.

    Raises:
        FileNotFoundError, ValueError: as `read_picture`; transparency and JPEG are refused.
    """
    if os.fspath(path).lower().endswith(_LOSSY):
        raise ValueError(f"{path} is a JPEG, which smears labels into their neighbours; keep masks as PNG")
    picture = open_upright(path)
    if picture.mode not in ("1", "L", "P", "I", "I;16", "RGB"):
        raise ValueError(
            f"{path} is a {_describe(picture.mode)} picture ({picture.mode}); a mask file is a binary, "
            "grey, palette or RGB picture without transparency"
        )
    return np.asarray(picture)


def _describe(mode: str) -> str:
    kinds = {
        "1": "binary",
        "L": "grey",
        "I": "grey",
        "I;16": "grey",
        "F": "grey",
        "P": "palette",
        "CMYK": "CMYK",
    }
    return kinds.get(mode, "four-channel" if mode in ("RGBA", "RGBX") else mode)


def check_picture(image, name: str = "image") -> np.ndarray:
    """Raise TypeError or ValueError unless `image` is (H, W, 3) uint8; return it as an array."""
    if isinstance(image, Image.Image):
        if image.mode != "RGB":
            raise ValueError(
                f"{name} is a {_describe(image.mode)} picture ({image.mode}); pass {name}.convert('RGB')"
            )
        image = np.asarray(image)
    if not isinstance(image, np.ndarray):
        raise TypeError(
            f"{name} is a {type(image).__name__}; give a (H, W, 3) uint8 RGB array or a PIL picture"
        )
    if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1):
        raise ValueError(f"{name} is grey, shape {image.shape}; repeat it to three channels (H, W, 3)")
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"{name} has shape {image.shape}; expected (H, W, 3) RGB (drop an alpha channel)")
    if image.dtype != np.uint8:
        raise TypeError(f"{name} has type {image.dtype}; expected uint8 RGB in 0..255")
    if not image.size:
        raise ValueError(f"{name} has no pixels, shape {image.shape}")
    return image


@dataclass(frozen=True)
class Fitted:
    """A picture on a canvas: `pixels` (h, w, 3) and the (height, width) that it covers from the top left."""

    pixels: np.ndarray
    covered: tuple[int, int]


def fit_picture(image: np.ndarray, size: tuple[int, int], fit: str) -> Fitted:
    """Resize to the canvas, bicubic: "squash" to all of it (as released), or "pad" keeping the aspect."""
    covered = covered_size(image.shape[:2], size, fit)
    pixels = np.array(Image.fromarray(image).resize(covered[::-1], Image.Resampling.BICUBIC))
    return Fitted(_place(pixels, size, _PADDING), covered)


def fit_labels(labels: np.ndarray, size: tuple[int, int], fit: str) -> np.ndarray:
    """The same for a label map, nearest neighbour, padded with background."""
    covered = covered_size(labels.shape, size, fit)
    resized = np.asarray(
        Image.fromarray(labels.astype(np.int32)).resize(covered[::-1], Image.Resampling.NEAREST)
    )
    return _place(resized, size, 0)


def covered_size(source: tuple[int, int], size: tuple[int, int], fit: str) -> tuple[int, int]:
    """The part of the canvas that a picture of `source` size covers."""
    if fit == "squash":
        return tuple(size)
    if fit != "pad":
        raise ValueError(f"unknown fit {fit!r}; choose one of {FITS}")
    scale = min(size[0] / source[0], size[1] / source[1])
    return tuple(max(1, min(s, round(o * scale))) for s, o in zip(size, source))


def _place(pixels: np.ndarray, size: tuple[int, int], fill) -> np.ndarray:
    if pixels.shape[:2] == tuple(size):
        return pixels
    canvas = np.empty((*size, *pixels.shape[2:]), pixels.dtype)
    canvas[:] = fill
    canvas[: pixels.shape[0], : pixels.shape[1]] = pixels
    return canvas


def padded_tokens(covered: tuple[int, int], size: tuple[int, int], patch: int) -> np.ndarray:
    """(tokens,) bool, true for the patches of the canvas that hold padding only."""
    rows, cols = (np.arange(0, s, patch) >= c for s, c in zip(size, covered))
    return (rows[:, None] | cols[None, :]).reshape(-1)


def grid_of(pictures: list[np.ndarray], size: tuple[int, int], resample) -> np.ndarray:
    """The spatial ensemble: n x n pictures of one size, scaled down to that size together (SegGPT sec. 3.2).

    A number of pictures that is no square is filled up by repeating them from the first.
    """
    n = int(np.ceil(len(pictures) ** 0.5))
    cells = [pictures[i % len(pictures)] for i in range(n * n)]
    rows = [np.concatenate(cells[i : i + n], 1) for i in range(0, n * n, n)]
    return np.array(Image.fromarray(np.concatenate(rows)).resize(size[::-1], resample))


def windows(size: tuple[int, int], tile: int, overlap: float) -> Iterator[tuple[slice, slice]]:
    """Overlapping squares of `tile` pixels that cover a picture; a side shorter than that is one window."""

    def starts(length: int) -> list[int]:
        if length <= tile:
            return [0]
        count = int(np.ceil((length - tile) / (tile * (1 - overlap)))) + 1
        return [round(i * (length - tile) / (count - 1)) for i in range(count)]

    for top in starts(size[0]):
        for left in starts(size[1]):
            yield slice(top, min(top + tile, size[0])), slice(left, min(left + tile, size[1]))


def window_weight(height: int, width: int) -> np.ndarray:
    """(height, width) float32 in (0, 1]: highest in the middle: borders of windows fade into each other."""

    def ramp(length: int) -> np.ndarray:
        half = (np.arange(length) + 0.5) / length
        return np.minimum(half, 1 - half) * 2

    return np.outer(ramp(height), ramp(width)).astype(np.float32).clip(1e-3)

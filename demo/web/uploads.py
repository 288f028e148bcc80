"""Files from strangers to pictures, masks and clips, or a ValueError whose sentence says why not.

Nothing in a file is executed or followed: only formats that PIL decodes by itself are opened (EPS would start
another program), a clip must be in a container that cannot point to other files, and sizes are read from the
header before anything is decoded. Where a file's name is used, only its harmless characters are.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from segcore.data.photo import read_photo
from segcore.video import VideoSource
from seggpt.frames import Frame

from .limits import Limits

PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "MPO", "JPEG2000", "AVIF")
PICTURE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".jp2", ".avif")
CLIP_EXTENSIONS = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm")
_NAME = re.compile(r"[^A-Za-z0-9_-]+")
_MASK_MODES = ("1", "L", "P", "RGB")
_PAINTED_PNG = "data:image/png;base64,"


def safe_name(path: str) -> str:
    """A name for result files: letters, digits, - and _ of the upload's name, at most 60."""
    return _NAME.sub("_", Path(path).stem).strip("_")[:60] or "upload"


def shown_name(path: str) -> str:
    """The upload's own name, shortened, for sentences."""
    name = Path(path).name
    return name if len(name) <= 60 else f"{name[:40]}…{name[-16:]}"


def read_picture(path: str | None, limits: Limits) -> np.ndarray:
    """An uploaded picture, upright, reduced to the page's working size.

    Returns:
        (H, W, 3) uint8 RGB, the longest side at most `limits.long_side`.

    Raises:
        ValueError: if there is none, or it is damaged, too large, or no picture.
    """
    if not path:
        raise ValueError("There is no picture yet: drop one first.")
    _check_bytes(path, limits)
    _check_header(path, limits)
    try:
        image = read_photo(path)
    except (ValueError, FileNotFoundError, MemoryError) as error:
        raise ValueError(_about(path, error)) from error
    return reduced(image, limits.long_side)


def read_mask(path: str, limits: Limits) -> np.ndarray:
    """An uploaded mask, as it is: (H, W) integers, or (H, W, 3) uint8 colours.

    Raises:
        ValueError: if it is damaged, too large, or no mask.
    """
    _check_bytes(path, limits)
    mode = _check_header(path, limits)
    if mode == "RGBA":
        with Image.open(path, formats=PICTURE_FORMATS) as picture:
            if picture.getextrema()[3] == (255, 255):
                return np.asarray(picture.convert("RGB"))
    if mode not in _MASK_MODES:
        raise ValueError(
            f"{shown_name(path)} is a picture of mode {mode}; a mask is black and white, grey, palette or RGB, "
            "without transparency."
        )
    try:
        with Image.open(path, formats=PICTURE_FORMATS) as picture:
            values = np.asarray(picture)
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ValueError(_about(path, error)) from error
    return values.astype(np.uint8) * 255 if values.dtype == bool else values


def _check_bytes(path: str, limits: Limits) -> None:
    size = os.path.getsize(path)
    if not size:
        raise ValueError(f"{shown_name(path)} is empty (0 bytes); choose another file.")
    if size > limits.file_bytes:
        raise ValueError(
            f"{shown_name(path)} has {size / 2**20:.0f} MB; the page takes up to {limits.file_bytes / 2**20:.0f} MB."
        )


def _check_header(path: str, limits: Limits) -> str:
    """The picture's mode; nothing is decoded.

    Raises:
        ValueError: if the header is none of a picture, or says that it is too large.
    """
    try:
        with Image.open(path, formats=PICTURE_FORMATS) as picture:
            (width, height), mode = picture.size, picture.mode
    except Image.DecompressionBombError as error:
        raise ValueError(f"{shown_name(path)} is far too large a picture; scale it down first.") from error
    # What PIL raises on a damaged header depends on where the damage is.
    except (OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError, KeyError, OverflowError) as error:
        raise ValueError(
            f"{shown_name(path)} is not a picture that can be read; give JPEG, PNG, WebP, BMP, GIF or TIFF."
        ) from error
    if width * height > limits.picture_pixels:
        raise ValueError(
            f"{shown_name(path)} has {width} × {height} pixels; the page takes up to "
            f"{limits.picture_pixels / 1e6:.0f} million. Scale it down, or use the command line."
        )
    return mode


def reduced(image: np.ndarray, long_side: int) -> np.ndarray:
    """The picture with its longest side at most `long_side`; smaller ones stay as they are."""
    height, width = image.shape[:2]
    scale = long_side / max(height, width)
    if scale >= 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


# ---- painted masks -------------------------------------------------------------------------------


def read_painted(text: str | None, sizes: list[tuple[int, int]]) -> tuple[list[np.ndarray], dict[int, str]]:
    """What the painter sends: a label map for each example, and the labels' names.

    Args:
        text: JSON {"masks": [PNG data URL], "names": {label: name}}; a mask's red channel is the label.
        sizes: (height, width) of each example.

    Returns:
        (label maps (H, W) int32, names of the labels 1, 2, ...).

    Raises:
        ValueError: if it is anything else.
    """
    try:
        document = json.loads(text or "{}")
        coded, names = document.get("masks", []), document.get("names", {})
        names = {int(label): str(name)[:40].strip() for label, name in names.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError("The painted masks did not arrive; reload the page and paint again.") from error
    if not isinstance(coded, list) or len(coded) != len(sizes):
        raise ValueError("Each example needs its painted mask; drop the examples again and paint on them.")
    masks = [_read_png(code, size, i) for i, (code, size) in enumerate(zip(coded, sizes), 1)]
    present = np.unique(np.concatenate([np.unique(mask) for mask in masks])) if masks else []
    return masks, {int(n): names.get(int(n)) or f"label {n}" for n in present if n}


def _read_png(code: str, size: tuple[int, int], number: int) -> np.ndarray:
    if not isinstance(code, str) or not code.startswith(_PAINTED_PNG):
        raise ValueError(f"The mask of example {number} did not arrive; paint it again.")
    try:
        data = base64.b64decode(code[len(_PAINTED_PNG) :], validate=True)
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            if picture.size != size[::-1]:
                raise ValueError(f"it has {picture.size} pixels, the example {size[::-1]}")
            return np.asarray(picture.convert("RGB"))[..., 0].astype(np.int32)
    except (binascii.Error, OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"The mask of example {number} cannot be read ({error}); paint it again.") from error


# ---- clips ---------------------------------------------------------------------------------------


def is_clip(path: str) -> bool:
    """Whether the name says that it is a clip."""
    return Path(path).suffix.lower() in CLIP_EXTENSIONS


class UploadedClip:
    """The frames of an uploaded clip, reduced, at most `limits.clip_frames` of them.

    Attributes:
        fps: frames per second.
        count: number of frames that its header says.
    """

    def __init__(self, path: str | None, limits: Limits) -> None:
        """
        Raises:
            ValueError: if it is no clip, damaged, too large or too long.
        """
        if not path:
            raise ValueError("There is no clip yet: drop one first.")
        _check_bytes(path, limits)
        if not _known_container(path):
            raise ValueError(
                f"{shown_name(path)} is not a clip that can be read; give MP4, MOV, AVI, MKV or WebM."
            )
        _check_clip_header(path, limits)
        try:
            self._video = VideoSource(path)
        except (ValueError, FileNotFoundError) as error:
            raise ValueError(_about(path, error)) from error
        self.fps, self.count = self._video.fps, self._video.count
        self._limits = limits

    def __iter__(self) -> Iterator[Frame]:
        for index, pixels in enumerate(self._video):
            if index == self._limits.clip_frames:
                break
            yield Frame(index, f"{index:05d}", reduced(pixels, self._limits.clip_side))
        self.close()

    def close(self) -> None:
        """Release the file; harmless when repeated."""
        self._video.close()


def first_frame(path: str | None, limits: Limits) -> np.ndarray:
    """The first frame of an uploaded clip; see `UploadedClip`."""
    clip = UploadedClip(path, limits)
    try:
        return next(iter(clip)).pixels
    finally:
        clip.close()


def _known_container(path: str) -> bool:
    """By the first bytes. Playlists and the like, which name other files, are none of these."""
    with open(path, "rb") as stream:
        head = stream.read(16)
    return head[4:8] == b"ftyp" or head[:4] == b"\x1a\x45\xdf\xa3" or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")


def _check_clip_header(path: str, limits: Limits) -> None:
    capture = cv2.VideoCapture(path)
    try:
        width, height, count = (
            int(capture.get(key))
            for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_COUNT)
        )
    finally:
        capture.release()
    if width * height > limits.clip_pixels:
        raise ValueError(f"{shown_name(path)} has frames of {width} × {height} pixels; scale the clip down first.")
    if count > limits.clip_frames:
        raise ValueError(
            f"{shown_name(path)} has {count} frames; the page takes up to {limits.clip_frames}. Cut the clip, or "
            "use the command line."
        )


def _about(path: str, error: Exception) -> str:
    """The error's sentence with the upload's name in place of its path."""
    return str(error).replace(os.path.abspath(path), shown_name(path)).replace(path, shown_name(path))


def new_folder(results: Path, limits: Limits) -> Path:
    """A new folder for one request's result files; those of long ago are deleted."""
    results.mkdir(parents=True, exist_ok=True)
    for old in results.iterdir():
        if time.time() - old.stat().st_mtime > limits.file_seconds:
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(dir=results))

"""Frames from folders, video files and cameras, one at a time.

A frame that cannot be read stops the clip with an error that names it, or is named and left out.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from seggpt.pictures import read_picture

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")
_GIVE_UP = 10  # frames in a row that cannot be had: the rest of the clip is lost, or the camera gone
_log = logging.getLogger(__name__)


class FrameError(ValueError):
    """A frame of a clip cannot be read."""


@dataclass(frozen=True)
class Frame:
    """`index` counts from 0 in the clip, unreadable frames included; `name` is for files that are written."""

    index: int
    name: str
    pixels: np.ndarray


@dataclass
class Clip:
    """A source of frames that can be gone through once.

    Attributes:
        source: as the user gave it.
        fps: frames per second; 24 where the source does not say.
        length: number of frames, or None for a camera.
        skipped: what was left out so far, one sentence each.
    """

    source: str
    fps: float
    length: int | None
    skipped: list[str] = field(default_factory=list)
    _frames: Callable[[Clip], Iterator[Frame]] = None

    def __iter__(self) -> Iterator[Frame]:
        return self._frames(self)

    def fail(self, message: str, skip: bool, cause: Exception | None = None) -> None:
        """Raise FrameError, or note the frame and go on."""
        if not skip:
            raise FrameError(f"{message}; restore it, or ask to leave such frames out") from cause
        self.skipped.append(message)
        _log.warning("%s; it is left out", message)


def open_clip(source: str | os.PathLike | int, *, on_error: str = "stop") -> Clip:
    """Open a folder of pictures (in the order of their names), a video file, or a camera by its number.

    Args:
        on_error: "stop" raises FrameError at a frame that cannot be read, "skip" leaves it out.

    Raises:
        FileNotFoundError, ValueError: if there is nothing to open; FrameError while iterating.
    """
    if on_error not in ("stop", "skip"):
        raise ValueError(f"on_error must be 'stop' or 'skip'; got {on_error!r}")
    skip = on_error == "skip"
    if isinstance(source, int):
        return _open_camera(source, skip)
    path = Path(source)
    if path.is_dir():
        return _open_folder(path, skip)
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no clip {str(path)!r}; give a folder of pictures, a video file or a camera"
        )
    return _open_video(path, skip)


def is_clip(path: str | os.PathLike) -> bool:
    """Whether a path is a folder or has a video file's extension."""
    return os.path.isdir(path) or Path(path).suffix.lower() in VIDEOS


def _open_folder(path: Path, skip: bool) -> Clip:
    files = sorted(f for f in path.iterdir() if f.suffix.lower() in PICTURES)
    if not files:
        raise ValueError(f"the folder {str(path)!r} has no pictures ({', '.join(PICTURES)})")

    def frames(clip: Clip) -> Iterator[Frame]:
        for index, file in enumerate(files):
            try:
                pixels = read_picture(file)
            except ValueError as error:
                clip.fail(f"frame {index} of {path} ({file.name}): {error}", skip, error)
                continue
            yield Frame(index, file.stem, pixels)

    return Clip(str(path), 24.0, len(files), _frames=frames)


def _open_video(path: Path, skip: bool) -> Clip:
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise ValueError(f"cannot open the video {str(path)!r}: it is damaged or of an unknown format")
    length = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    fps = capture.get(cv2.CAP_PROP_FPS) or 24.0

    def frames(clip: Clip) -> Iterator[Frame]:
        index, missed = 0, 0
        try:
            while missed < _GIVE_UP:
                found, pixels = capture.read()
                if found:
                    missed = 0
                    yield Frame(index, f"{index:05d}", cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
                elif index >= length - 1:
                    return  # headers may promise one frame too many, or not tell the number
                else:
                    missed += 1
                    clip.fail(f"frame {index} of {length} of {path} cannot be decoded", skip)
                index += 1
        finally:
            capture.release()

    return Clip(str(path), fps, length, _frames=frames)


def _open_camera(number: int, skip: bool) -> Clip:
    capture = cv2.VideoCapture(number)
    if not capture.isOpened():
        raise ValueError(f"cannot open camera {number}; is it connected and free?")
    fps = capture.get(cv2.CAP_PROP_FPS) or 24.0

    def frames(clip: Clip) -> Iterator[Frame]:
        index, missed = 0, 0
        try:
            while missed < _GIVE_UP:  # a camera that was unplugged delivers nothing any more
                found, pixels = capture.read()
                if found:
                    missed = 0
                    yield Frame(index, f"{index:05d}", cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
                else:
                    missed += 1
                    clip.fail(f"frame {index} of camera {number} was not delivered", skip)
                index += 1
        finally:
            capture.release()

    return Clip(f"camera {number}", fps, None, _frames=frames)

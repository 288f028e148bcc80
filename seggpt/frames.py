"""Frames from folders, video files and cameras, one at a time.

A frame that cannot be read stops the clip with an error that names it, or is named and left out.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from segcore.inputs import IMAGE_EXTENSIONS
from segcore.video import VideoSource
from seggpt.pictures import read_picture

_GIVE_UP = 10  # frames in a row that cannot be had: the rest of the clip is lost, or the camera gone
_FOLDER_FPS = 24.0  # of DAVIS, whose clips are folders
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
        fps: frames per second.
        length: number of frames, or None for a camera.
        skip: leave out frames that cannot be read, or have another size than the first.
        skipped: what was left out so far, one sentence each.
    """

    source: str
    fps: float
    length: int | None
    skip: bool
    _frames: Callable[[Clip], Iterator[Frame]]
    skipped: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Frame]:
        size = None
        for frame in self._frames(self):
            size = size or frame.pixels.shape[:2]
            if frame.pixels.shape[:2] == size:
                yield frame
                continue
            height, width = frame.pixels.shape[:2]
            self.fail(
                f"frame {frame.index} of {self.source} ({frame.name}) has {width}x{height} pixels, the "
                f"frames before it {size[1]}x{size[0]}"
            )

    def fail(self, message: str, cause: Exception | None = None) -> None:
        """Raise FrameError, or note the frame and go on."""
        if not self.skip:
            raise FrameError(f"{message}; restore it, or leave such frames out with on_error='skip'") from cause
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
    path = Path(source) if not isinstance(source, int) else None
    if path is not None and path.is_dir():
        return _open_folder(path, skip)
    if path is not None and not path.is_file():
        raise FileNotFoundError(
            f"there is no clip {str(path)!r}; give a folder of pictures, a video file or a camera"
        )
    return _open_video(source if path is None else str(path), skip)


def _open_folder(path: Path, skip: bool) -> Clip:
    files = sorted(f for f in path.iterdir() if f.suffix.lower() in IMAGE_EXTENSIONS and f.name[0] != ".")
    if not files:
        raise ValueError(f"the folder {str(path)!r} has no pictures ({', '.join(sorted(IMAGE_EXTENSIONS))})")
    stem, count = Counter(f.stem for f in files).most_common(1)[0]
    if count > 1:
        raise ValueError(
            f"the folder {str(path)!r} has {count} pictures named {stem!r}, which are no frames of one clip; "
            "keep masks in a folder of their own"
        )

    def frames(clip: Clip) -> Iterator[Frame]:
        for index, file in enumerate(files):
            try:
                pixels = read_picture(file)
            except ValueError as error:
                clip.fail(f"frame {index} of {path} ({file.name}): {error}", error)
                continue
            yield Frame(index, file.stem, pixels)

    return Clip(str(path), _FOLDER_FPS, len(files), skip, frames)


def _open_video(source: str | int, skip: bool) -> Clip:
    video = VideoSource(source)
    name = f"camera {source}" if isinstance(source, int) else source

    def frames(clip: Clip) -> Iterator[Frame]:
        missed = 0
        try:
            for index, pixels in enumerate(video.attempts()):
                if pixels is not None:
                    missed = 0
                    yield Frame(index, f"{index:05d}", pixels)
                    continue
                if not isinstance(source, int) and index >= (video.count or 0) - 1:
                    return  # headers may promise one frame too many, or not tell the number
                missed += 1
                total = f" of {video.count}" if video.count else ""
                clip.fail(f"frame {index}{total} of {name} cannot be decoded")
                if missed == _GIVE_UP:
                    clip.fail(f"what follows frame {index} of {name} cannot be decoded either")
                    return
        finally:
            video.close()

    return Clip(name, video.fps, video.count, skip, frames)

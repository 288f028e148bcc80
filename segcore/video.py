"""Videos and cameras, frame by frame, in and out."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import cv2
import numpy as np

VIDEO_EXTENSIONS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv"})
_USUAL_FPS = 25.0  # of a source that does not say, as many cameras
_CODECS = {".mp4": "mp4v", ".webm": "VP80"}  # in every OpenCV wheel; browsers play the second


class VideoSource:
    """The frames of a video file or a camera.

    Attributes:
        fps: frames per second, 25 where the source does not say.
        count: number of frames, or None where it is not known (cameras).
    """

    def __init__(self, source: str | int) -> None:
        """
        Args:
            source: path of a video, or number of a camera.

        Raises:
            FileNotFoundError: no such file.
            ValueError: it cannot be opened as a video, or has no frame.
        """
        self.name = f"camera {source}" if isinstance(source, int) else f"video {source}"
        if not isinstance(source, int) and not os.path.isfile(source):
            raise FileNotFoundError(f"{self.name} does not exist")
        self._capture = cv2.VideoCapture(source)
        # Opened and yet empty: what a damaged file looks like. The first frame is read now.
        opened = self._capture.isOpened()
        self._first = self._capture.read()[1] if opened else None
        if self._first is None:
            self._capture.release()
            remedy = (
                "is it plugged in and free?" if isinstance(source, int) else "the file is damaged or no video"
            )
            raise ValueError(f"cannot read {self.name}: {remedy}")
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if np.isfinite(fps) and 0 < fps <= 1000 else _USUAL_FPS
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.count = count if count > 0 and not isinstance(source, int) else None

    def __iter__(self) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8 RGB frames, once; ends at the first that cannot be had and releases the source."""
        try:
            yield from takewhile(lambda frame: frame is not None, self.attempts())
        finally:
            self.close()

    def attempts(self) -> Iterator[np.ndarray | None]:
        """Every try to get the next frame, without end: None where there is none.

        Inside of a file that is a frame which cannot be decoded; later ones may follow.
        """
        frame, self._first = self._first, None
        while True:
            yield None if frame is None else cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            frame = self._capture.read()[1]

    def close(self) -> None:
        """Release the file or camera; harmless when repeated."""
        self._capture.release()


class VideoWriter:
    """An .mp4 or .webm that appears when it is complete: `close` gives it its name, an error leaves nothing.

    >>> with VideoWriter("out.mp4", fps=25) as video:
    ...     video.add(frame)          # (H, W, 3) uint8 RGB, all of one size
    """

    def __init__(self, path: str | os.PathLike, fps: float) -> None:
        """
        Args:
            path: ends in .mp4 or .webm.
            fps: frames per second.

        Raises:
            ValueError: for another extension.
        """
        self.path = Path(path)
        self._suffix = self.path.suffix.lower()
        if self._suffix not in _CODECS:
            raise ValueError(f"a video is written as {' or '.join(_CODECS)}, got {self.path.name}")
        self.fps = fps
        self._writer: cv2.VideoWriter | None = None
        self._temporary: str | None = None
        self._size: tuple[int, int] | None = None

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        # Ctrl-C is how a camera is stopped: what it has seen so far is the result.
        if kind is None or issubclass(kind, KeyboardInterrupt):
            self.close()
        else:
            self._discard()

    def add(self, frame: np.ndarray) -> None:
        """Append a frame; odd sizes lose a row or column, which the codec cannot hold.

        Raises:
            ValueError: if the size differs from that of the first frame.
            OSError: if this OpenCV cannot write the video.
        """
        # One pixel cannot be halved in colour: pad up to two.
        frame = np.pad(
            frame, ((0, max(0, 2 - frame.shape[0])), (0, max(0, 2 - frame.shape[1])), (0, 0)), mode="edge"
        )
        frame = frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]
        size = (frame.shape[1], frame.shape[0])
        if self._writer is None:
            self._open(size)
        if size != self._size:
            raise ValueError(
                f"frames of {self.path} must be {self._size} (width, height) like the first, got {size}"
            )
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Finish the file; without a frame there is none."""
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        os.replace(self._temporary, self.path)

    def _open(self, size: tuple[int, int]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # OpenCV chooses the container by the extension, so the temporary name ends in it too.
        handle, self._temporary = tempfile.mkstemp(
            prefix=f".{self.path.stem}.", suffix=self._suffix, dir=self.path.parent
        )
        os.close(handle)
        os.chmod(self._temporary, 0o644)
        self._writer = cv2.VideoWriter(self._temporary, cv2.VideoWriter_fourcc(*_CODECS[self._suffix]), self.fps, size)
        self._size = size
        if not self._writer.isOpened():
            self._discard()
            raise OSError(
                f"this OpenCV cannot write {self.path} ({_CODECS[self._suffix]}, {size[0]}x{size[1]}, {self.fps:g} fps)"
            )

    def _discard(self) -> None:
        if self._writer is not None:
            self._writer.release()
            self._writer = None
        if self._temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary)

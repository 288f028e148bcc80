"""What a user names on a command line -> pictures, videos and cameras, each with a name for its results."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .video import VIDEO_EXTENSIONS

IMAGE_EXTENSIONS = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jfif",
        ".png",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".webp",
        ".ppm",
        ".pgm",
        ".pbm",
        ".jp2",
    }
)


@dataclass(frozen=True)
class Source:
    """One input.

    Attributes:
        place: path, or number of a camera.
        name: of its result files, without extension; no other source of the run has it.
        is_video: whether it has frames.
    """

    place: str | int
    name: str
    is_video: bool


def find_sources(inputs: Sequence[str], cameras: Sequence[int] = ()) -> list[Source]:
    """Expand files, folders, globs and camera numbers; nothing is opened.

    A folder stands for the images and videos in it (not in folders below), sorted.
    A file that is named is taken whatever its extension; a bare number that is no
    file is a camera.  A file that is named twice is taken once.

    Raises:
        FileNotFoundError: for the first input that names nothing.
    """
    places: list[str | int] = [place for given in inputs for place in _expand(given)]
    places += cameras
    return _named(dict.fromkeys(places))


def _expand(given: str) -> list[str | int]:
    path = os.path.expanduser(given)
    if os.path.isfile(path):
        return [path]
    if os.path.isdir(path):
        found = sorted(str(p) for p in Path(path).iterdir() if p.is_file() and _is_wanted(p))
        if not found:
            raise FileNotFoundError(f"folder {given} holds no image or video")
        return found
    if given.isdecimal():
        return [int(given)]
    if glob.has_magic(path):
        found = sorted(p for p in glob.glob(path, recursive=True) if os.path.isfile(p))
        if not found:
            raise FileNotFoundError(f"no file matches {given}")
        return found
    raise FileNotFoundError(f"input {given} does not exist (looked in {os.path.abspath(path)})")


def _is_wanted(path: Path) -> bool:
    return not path.name.startswith(".") and path.suffix.lower() in IMAGE_EXTENSIONS | VIDEO_EXTENSIONS


def _named(places: Iterable[str | int]) -> list[Source]:
    sources, taken = [], set()
    for place in places:
        stem = f"camera{place}" if isinstance(place, int) else Path(place).stem
        name, number = stem, 1
        # Lower case: some file systems do not tell the two apart.
        while name.lower() in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name.lower())
        is_video = isinstance(place, int) or Path(place).suffix.lower() in VIDEO_EXTENSIONS
        sources.append(Source(place, name, is_video))
    return sources

"""How much one visitor may ask for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of what is taken and kept.

    Attributes:
        file_bytes: of one uploaded file.
        picture_pixels: of an uploaded picture, as its header says; larger ones are not decoded.
        long_side: to which pictures are reduced before they are segmented, pixels.
        clip_frames: of an uploaded clip.
        clip_pixels: of one frame, as the clip's header says.
        clip_side: to which frames are reduced, pixels.
        pictures: uploaded at once.
        queue: requests that may wait; more are told to come back.
        kept_bytes: of the last results, all visitors together.
        file_seconds: after which uploads and results are deleted.
    """

    file_bytes: int = 64 << 20
    picture_pixels: int = 50_000_000
    long_side: int = 1600
    clip_frames: int = 300
    clip_pixels: int = 4096 * 2304
    clip_side: int = 960
    pictures: int = 8
    queue: int = 24
    kept_bytes: int = 512 << 20
    file_seconds: int = 3600

"""Segment ids out of a panoptic PNG, in a third of the time that a picture library takes for its colours."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np
import torch

from segcore.ops.backend import choose_backend

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB_OF_8_BITS = (8, 2, 0, 0, 0)  # bit depth, colour type, compression, filter method, no interlacing


def decode_ids(content: bytes) -> np.ndarray | None:
    """The ids R + 256 G + 65536 B of a PNG.

    Args:
        content: the whole file.

    Returns:
        (H, W) int32; or None for whatever is not an undamaged, plain RGB PNG of 8 bits, and without the compiled
        operators. A picture library then reads it, or says what is wrong with it.
    """
    if choose_backend("cpu") != "cpu" or not content.startswith(_SIGNATURE):
        return None
    try:
        chunks = list(_chunks(content))
        width, height, *kind = struct.unpack(">IIBBBBB", chunks[0][1])
        if tuple(kind) != _RGB_OF_8_BITS or not (width and height):
            return None
        size = height * (3 * width + 1)
        stream = zlib.decompressobj()
        # No more than the header speaks of, however much a file would inflate to.
        inflated = stream.decompress(b"".join(data for name, data in chunks if name == b"IDAT"), size + 1)
    except (struct.error, zlib.error, ValueError, IndexError):
        return None
    if not stream.eof or len(inflated) != size or max(inflated[:: 3 * width + 1]) > 4:
        return None
    pixels = torch.from_numpy(np.frombuffer(inflated, np.uint8).copy())
    return torch.ops.segcore_native.png_ids(pixels, height, width).numpy()


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(name, data) of each chunk up to the last; raises ValueError for one that is damaged or cut off."""
    start = len(_SIGNATURE)
    name = b""
    while name != b"IEND":
        length, name = struct.unpack_from(">I4s", content, start)
        data = content[start + 8 : start + 8 + length]
        (checksum,) = struct.unpack_from(">I", content, start + 8 + length)
        if checksum != zlib.crc32(data, zlib.crc32(name)):
            raise ValueError(f"wrong checksum of chunk {name!r}")
        yield name, data
        start += 12 + length

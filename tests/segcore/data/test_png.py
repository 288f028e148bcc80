"""Ids of panoptic PNGs against Pillow, under every filter; damage is left to Pillow to name."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from segcore.data.images import read_panoptic_ids
from segcore.data.png import decode_ids
from segcore.ops import use_backend

pytestmark = pytest.mark.ext


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def encode(filtered: np.ndarray, width: int, kind=(8, 2, 0, 0, 0)) -> bytes:
    """A PNG of rows whose first byte names their filter, in two IDAT chunks."""
    header = struct.pack(">IIBBBBB", width, len(filtered), *kind)
    packed = zlib.compress(filtered.tobytes())
    chunks = [(b"IHDR", header), (b"IDAT", packed[:7]), (b"IDAT", packed[7:]), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in chunks)


@pytest.mark.parametrize("width", [1, 2, 37])
def test_every_filter(width, tmp_path):
    rng = np.random.default_rng(0)
    filtered = rng.integers(0, 256, (60, 3 * width + 1)).astype(np.uint8)
    filtered[:, 0] = np.concatenate([np.repeat(np.arange(5), 2), rng.integers(0, 5, 50)])
    path = tmp_path / "pan.png"
    path.write_bytes(encode(filtered, width))
    colors = np.asarray(Image.open(path)).astype(np.int64)
    expected = colors[..., 0] + 256 * colors[..., 1] + 65536 * colors[..., 2]
    ids = decode_ids(path.read_bytes())
    assert ids is not None and ids.dtype == np.int32
    assert (ids == expected).all()
    with use_backend("torch"):
        assert decode_ids(path.read_bytes()) is None
        assert (read_panoptic_ids(str(path)) == expected).all()


def test_what_is_damaged_or_of_another_kind_is_left():
    filtered = np.zeros((4, 13), np.uint8)
    good = encode(filtered, 4)
    assert decode_ids(good) is not None
    for place in range(8, len(good)):
        assert decode_ids(good[:place]) is None
        broken = bytearray(good)
        broken[place] ^= 16
        assert decode_ids(bytes(broken)) is None, f"byte {place}"
    for kind in ((16, 2, 0, 0, 0), (8, 6, 0, 0, 0), (8, 0, 0, 0, 0), (8, 2, 0, 0, 1)):
        assert decode_ids(encode(filtered, 4, kind)) is None
    assert decode_ids(encode(filtered, 5)) is None  # fewer pixels than the header says
    filtered[2, 0] = 5
    assert decode_ids(encode(filtered, 4)) is None  # no such filter
    assert decode_ids(b"") is None

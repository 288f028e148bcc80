"""Two hundred uploads that are not what their names say, or are rare, or mean harm. Made from a fixed seed."""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, PngImagePlugin

from tests.pictures import photograph

_FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "TIFF": "tif", "BMP": "bmp"}


def bad_files() -> list[tuple[str, bytes]]:
    """(file name, content) of each."""
    return [*_truncated(), *_damaged(), *_not_pictures(), *_huge(), *_rare(), *_names()]


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format=kind, **options)
    return stream.getvalue()


def _whole(kind: str, size: tuple[int, int] = (40, 56)) -> bytes:
    return encoded(Image.fromarray(photograph(*size)), kind)


def _truncated() -> Iterator[tuple[str, bytes]]:
    for kind, extension in _FORMATS.items():
        content = _whole(kind)
        for part in (0.002, 0.02, 0.1, 0.3, 0.6, 0.9, 0.99):
            yield f"cut_{part}.{extension}", content[: max(1, int(len(content) * part))]
        yield f"empty.{extension}", b""


def _damaged() -> Iterator[tuple[str, bytes]]:
    rng = np.random.default_rng(0)
    for kind, extension in _FORMATS.items():
        for i in range(8):
            content = bytearray(_whole(kind))
            for place in rng.integers(0, len(content) if i % 2 else 64, 1 + 4 * i):
                content[place] = rng.integers(0, 256)
            yield f"damaged_{i}.{extension}", bytes(content)
        yield f"wrong_magic.{extension}", b"\0\0\0\0" + _whole(kind)[4:]
        yield f"other_name_{kind}.{'png' if extension != 'png' else 'jpg'}", _whole(kind)


def _not_pictures() -> Iterator[tuple[str, bytes]]:
    class Harm:
        def __reduce__(self):
            return print, ("executed",)

    contents = {
        "text": b"this is no picture\n" * 50,
        "html": b"<html><script>alert(1)</script></html>",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\nshowpage\n%%EOF\n",
        "pdf": b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n",
        "pickle": pickle.dumps(Harm()),
        "zip": b"PK\x03\x04" + bytes(200),
        "elf": b"\x7fELF" + bytes(200),
        "playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        "concat": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "zeros": bytes(5000),
        "random": np.random.default_rng(1).bytes(5000),
        "xpm": b'/* XPM */\nstatic char *a[] = {"99999 99999 1 1", "a c #000000"};',
        "fits": b"SIMPLE  =                    T" + bytes(2850),
        "mvg": b"push graphic-context\nfill 'url(file:///etc/passwd)'\npop graphic-context\n",
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    }
    for name, content in contents.items():
        for extension in ("png", "jpg"):
            yield f"{name}.{extension}", content


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _png(width: int, height: int, data: bytes = b"", extra: bytes = b"") -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _huge() -> Iterator[tuple[str, bytes]]:
    for width, height in ((2**31 - 1, 2**31 - 1), (10**6, 10**6), (60000, 60000), (20000, 20000), (1, 2**30), (0, 5)):
        yield f"huge_{width}x{height}.png", _png(width, height, zlib.compress(bytes(1000)))
    yield "bomb.png", _png(12000, 12000, zlib.compress(bytes(12001 * 12000)))
    for chunk in (b"zTXt", b"iCCP"):
        swollen = _chunk(chunk, b"a\0\0" + zlib.compress(bytes(10**8)))
        yield f"{chunk.decode()}_bomb.png", _png(4, 4, zlib.compress(bytes(20)), swollen)
    gif, bmp = bytearray(_whole("GIF")), bytearray(_whole("BMP"))
    gif[6:10] = struct.pack("<HH", 65535, 65535)
    bmp[18:26] = struct.pack("<ii", 2**30, 2**30)
    yield "huge.gif", bytes(gif)
    yield "huge.bmp", bytes(bmp)
    jpeg = bytearray(_whole("JPEG"))
    place = jpeg.index(b"\xff\xc0") + 5
    jpeg[place : place + 4] = struct.pack(">HH", 65500, 65500)
    yield "huge.jpg", bytes(jpeg)


def _rare() -> Iterator[tuple[str, bytes]]:
    """Pictures that are in order and must be read."""
    photo = Image.fromarray(photograph(24, 36))
    frames = [Image.fromarray(photograph(24, 36) // (i + 1)) for i in range(3)]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        yield f"good_animated.{_FORMATS[kind]}", encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    deep = np.linspace(0, 65535, 24 * 36).reshape(24, 36).astype(np.uint16)
    yield "good_16bit.png", encoded(Image.fromarray(deep), "PNG")
    yield "good_16bit.tif", encoded(Image.fromarray(deep), "TIFF")
    for mode, kind in (("CMYK", "JPEG"), ("CMYK", "TIFF"), ("L", "JPEG"), ("1", "PNG"), ("P", "PNG"), ("LA", "PNG"),
                       ("RGBA", "PNG"), ("RGBA", "WEBP")):  # fmt: skip
        yield f"good_{mode}.{_FORMATS[kind]}", encoded(photo.convert(mode), kind)
    for orientation in range(10):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield f"good_turned_{orientation}.jpg", encoded(photo, "JPEG", exif=exif)
    yield "ycbcr.tif", encoded(photo.convert("YCbCr"), "TIFF")  # PIL writes it, but cannot read it
    yield "good_one_pixel.png", encoded(Image.new("RGB", (1, 1)), "PNG")
    yield "good_narrow.png", encoded(Image.new("RGB", (1, 900)), "PNG")
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "x" * 1000)
    yield "good_text.png", encoded(photo, "PNG", pnginfo=text)


def _names() -> Iterator[tuple[str, bytes]]:
    """A good picture under a name that must not lead anywhere."""
    content = _whole("PNG")
    for name in (
        "../../escaped.png", "/var/escaped.png", "..\\..\\escaped.png", "a/b/../../../escaped.png",
        "%2e%2e%2fescaped.png",
        "....//....//escaped.png", "C:\\escaped.png", "~/escaped.png", "-rf.png", ".png", "..png", " .png", "con.png",
        "$(touch escaped).png", "`touch escaped`.png", "; touch escaped .png", "a\nb.png", "a\tb.png", "\u202egnp.png",
        "ü漢字😀.png", "<img src=x onerror=alert(1)>.png", "'quoted\".png", "x" * 200 + ".png", "file:escaped.png",
    ):  # fmt: skip
        yield name, content

"""Any picture a user may have becomes upright RGB, or one clear sentence."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from segcore.data.photo import read_photo


def saved(picture: Image.Image, path, **options) -> str:
    picture.save(path, **options)
    return str(path)


def test_rgb_is_read_as_it_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    np.testing.assert_array_equal(read_photo(saved(Image.fromarray(pixels), tmp_path / "a.png")), pixels)


def test_exif_turns_it_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the first row of the file is the right side
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, :, 0] = 255
    upright = read_photo(saved(Image.fromarray(pixels), tmp_path / "a.png", exif=exif))
    assert upright.shape == (3, 2, 3)
    np.testing.assert_array_equal(upright[..., 0], [[0, 255]] * 3)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(tmp_path, mode):
    grey = Image.fromarray(np.array([[0, 255]], np.uint8))
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png")
    # Compressed: Pillow 12.3 cannot read the plain YCbCr TIFF that it writes.
    options = {"compression": "tiff_lzw"} if path.suffix == ".tif" else {}
    image = read_photo(saved(grey.convert("RGB").convert(mode), path, **options))
    assert image.dtype == np.uint8 and image.shape == (1, 2, 3)
    np.testing.assert_allclose(image.astype(int), [[[0] * 3, [255] * 3]], atol=2)


def test_transparency_lies_over_white(tmp_path):
    rgba = np.array([[[200, 0, 0, 255], [200, 0, 0, 0]]], np.uint8)
    image = read_photo(saved(Image.fromarray(rgba), tmp_path / "a.png"))
    np.testing.assert_array_equal(image, [[[200, 0, 0], [255, 255, 255]]])


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    deep = np.array([[0, 257 * 100, 65535]], np.uint16)
    image = read_photo(saved(Image.fromarray(deep), tmp_path / "a.png"))
    np.testing.assert_array_equal(image[0, :, 0], [0, 100, 255])


def test_numbers_without_a_range_are_refused(tmp_path):
    path = saved(Image.fromarray(np.array([[0.0, 3.5]], np.float32)), tmp_path / "depth.tif")
    with pytest.raises(ValueError, match=r"depth.tif: its pixels are float32 numbers from 0 to 3.5"):
        read_photo(path)


def test_what_is_no_picture(tmp_path):
    whole = tmp_path / "whole.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(whole)
    torn, text, empty = tmp_path / "torn.jpg", tmp_path / "text.jpg", tmp_path / "empty.png"
    torn.write_bytes(whole.read_bytes()[:800])
    text.write_text("not a picture")
    empty.write_bytes(b"")
    for path in (torn, text, empty):
        with pytest.raises(ValueError, match=f"cannot read the image .*{path.name}: .*damaged or no picture"):
            read_photo(path)
    with pytest.raises(FileNotFoundError, match=r"none.jpg does not exist"):
        read_photo(tmp_path / "none.jpg")
    with pytest.raises(FileNotFoundError, match="is a folder, not an image"):
        read_photo(tmp_path)


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    path = saved(Image.new("RGB", (50, 50)), tmp_path / "big.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"big.png: .*scale it down first"):
        read_photo(path)

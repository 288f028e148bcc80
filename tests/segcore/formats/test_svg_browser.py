"""A browser fills an SVG's paths with exactly the masks."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from segcore.formats import shapes_of
from segcore.formats.svg import drawing
from tests.conftest import chromium
from tests.pictures import prediction

pytestmark = pytest.mark.browser


def test_chromium_draws_the_masks():
    from playwright.sync_api import sync_playwright

    found = prediction(9)
    height, width = found.size
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=chromium(), headless=True, args=flags)
        page = browser.new_page(viewport={"width": width, "height": height})
        for shape in shapes_of(found, "panoptic"):
            page.set_content(f"<body style='margin:0'>{drawing([shape], found.size, opacity=1)}</body>")
            picture = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
            assert np.array_equal((picture != 255).any(-1), shape.mask)
        browser.close()

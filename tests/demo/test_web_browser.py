"""The page in a headless Chromium, used as a visitor uses it. Screenshots are kept in output/browser."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the page needs the extra web")

from demo.web.models import Models
from oneformer import OneFormerPredictor
from segcore.video import VideoWriter
from seggpt import SegGPTPredictor
from tests.conftest import chromium
from tests.demo.page_server import running
from tests.pictures import photograph, tiny_weights
from tests.seggpt.small_seggpt import small_model

pytestmark = pytest.mark.browser

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PATIENCE = 90_000  # milliseconds; a result comes in one or two seconds on an idle machine


@pytest.fixture(scope="module")
def screenshots(repo) -> Path:
    folder = Path(os.environ.get("BROWSER_SCREENSHOTS", repo / "output" / "browser"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def address(repo, tmp_path_factory) -> str:
    """A page with a tiny OneFormer and a small SegGPT, both of random numbers."""
    folder = tmp_path_factory.mktemp("page")
    weights = tiny_weights(repo, folder / "tiny.safetensors")
    models = Models(OneFormerPredictor(weights=weights, device="cpu"), SegGPTPredictor(model=small_model()))
    with running(models, folder / "work") as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright


    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium(), headless=True, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def visit(browser, address):
    """Open the page in a session of its own; errors in its scripts fail the test."""
    contexts, errors = [], []

    def call():
        context = browser.new_context(viewport={"width": 1400, "height": 950})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.wait_for_selector("#of-run")
        return page

    yield call
    for context in contexts:
        context.close()
    assert not errors, errors


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[str]:
    """Two pictures of different sizes."""
    folder = tmp_path_factory.mktemp("photos")
    paths = []
    for name, size in (("first", (120, 160)), ("second", (100, 180))):
        smooth = Image.fromarray(photograph(size[0] // 20, size[1] // 20)).resize(size[::-1], Image.Resampling.BICUBIC)
        smooth.save(folder / f"{name}.png")
        paths.append(str(folder / f"{name}.png"))
    return paths


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    with VideoWriter(path, 10) as video:
        for i in range(200):
            video.add(np.roll(photograph(96, 128), 2 * i, 1))
    return str(path)


def drop(page, place: str, files) -> None:
    page.set_input_files(f"{place} input[type=file]", files)


def segment(page, photo: str) -> None:
    drop(page, "#of-file", photo)
    page.wait_for_selector("#of-view .sv-stage img")
    page.click("#of-run")


def test_a_picture_in_all_tasks(visit, photos, screenshots):
    page = visit()
    page.screenshot(path=screenshots / "start.png")
    segment(page, photos[0])
    page.wait_for_selector("#of-view .sv-tab >> text=Semantic")
    assert page.locator("#of-view .sv-tab").all_inner_texts() == ["Panoptic", "Instance", "Semantic", "Photograph"]
    for task in ("Panoptic", "Instance", "Semantic"):
        page.click(f"#of-view .sv-tab >> text={task}")
        picture = page.locator("#of-view .sv-pane.sv-on img")
        assert picture.evaluate("image => image.naturalWidth") >= 160
        page.screenshot(path=screenshots / f"{task.lower()}.png")
    assert "160 × 120 pixels" in page.inner_text("#of-line")
    area = page.locator("#of-view .sv-pane.sv-on .sv-stage").bounding_box()
    for step in (0.4, 0.45, 0.5):  # the first move fetches the map of names
        page.mouse.move(area["x"] + area["width"] * step, area["y"] + area["height"] / 2)
        page.wait_for_timeout(150)
    tip = page.inner_text("#of-view .sv-pane.sv-on .sv-tip").split("\n")
    legend = page.locator("#of-view .sv-pane.sv-on .sv-chip").all_inner_texts()
    assert any(chip.startswith(tip[0]) for chip in legend), (tip, legend)
    page.click("text=Save the result")
    page.click("#of-save")
    page.wait_for_selector("#of-files a")
    assert page.locator("#of-files a").count() >= 4
    page.screenshot(path=screenshots / "files.png")


def test_paint_an_example_and_find_it_in_a_second_picture(visit, photos, screenshots):
    page = visit()
    page.get_by_role("tab", name="SegGPT").click()
    drop(page, "#sg-examples", photos[:1])
    page.wait_for_selector("#sg-painter .sp-stage canvas")
    page.wait_for_timeout(300)
    area = page.locator("#sg-painter .sp-stage").bounding_box()
    x, y = area["x"] + area["width"] / 2, area["y"] + area["height"] / 2
    page.mouse.move(x - 60, y)
    page.mouse.down()
    page.mouse.move(x + 60, y, steps=12)
    page.mouse.up()
    page.click('.sp-tool[data-tool="add"]')
    page.fill(".sp-name", "top")
    page.mouse.move(area["x"] + 30, area["y"] + 20)
    page.mouse.down()
    page.mouse.move(area["x"] + 200, area["y"] + 20, steps=12)
    page.mouse.up()
    sent = page.evaluate("window.segpainter.collect()")
    assert '"2":"top"' in sent and sent.count("data:image/png") == 1
    drop(page, "#sg-targets", photos[1:])
    page.wait_for_selector("#sg-targets .file-preview, #sg-targets table")
    page.click("#sg-run")
    page.wait_for_selector("#sg-files a")
    # The small network is random, but it answers in the painted labels.
    assert page.locator("#sg-view .sv-tab").all_inner_texts() == ["second.png"]
    legend = " ".join(page.locator("#sg-view .sv-chip").all_inner_texts())
    assert re.search("label 1|top", legend), legend
    page.screenshot(path=screenshots / "seggpt.png", full_page=True)


def test_a_text_file_as_picture_is_answered_with_a_sentence(visit, tmp_path, screenshots):
    page = visit()
    (tmp_path / "notes.png").write_text("no picture at all")
    drop(page, "#of-file", str(tmp_path / "notes.png"))
    page.wait_for_selector(".toast-body")
    assert "notes.png is not a picture that can be read; give JPEG" in page.inner_text(".toast-body")
    page.screenshot(path=screenshots / "wrong_file.png")


def test_a_clip_is_cancelled(visit, photos, clip, screenshots):
    page = visit()
    page.get_by_role("tab", name="Together").click()
    drop(page, "#to-file", clip)
    page.wait_for_selector("#to-view .sv-stage")
    page.click("text=Everything")
    page.click("#to-find")
    page.wait_for_selector("#to-chosen input")
    page.screenshot(path=screenshots / "found.png", full_page=True)
    page.click("#to-run")
    page.wait_for_selector("#to-status >> text=/Frame [2-9]/")
    page.screenshot(path=screenshots / "following.png", full_page=True)
    page.click("#to-stop")
    page.wait_for_selector("#to-status >> text=Cancelled.")
    page.wait_for_timeout(1500)
    assert "Cancelled." in page.inner_text("#to-status"), "nothing goes on behind"
    assert not page.locator("#to-files a").count()
    # The models are free again.
    page.get_by_role("tab", name="OneFormer").click()
    segment(page, photos[0])
    page.wait_for_selector("#of-view .sv-tab >> text=Semantic")


def test_two_sessions_at_once(visit, photos):
    pages = [visit(), visit()]
    for page, photo in zip(pages, photos):
        drop(page, "#of-file", photo)
        page.wait_for_selector("#of-view .sv-stage img")
    for page in pages:
        page.click("#of-run")
    for page, size in zip(pages, ("160 × 120", "180 × 100")):
        page.wait_for_selector("#of-view .sv-tab >> text=Semantic")
        assert size in page.inner_text("#of-line")

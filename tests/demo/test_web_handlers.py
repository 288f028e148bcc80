"""What the page's buttons do, without a browser and without a server."""

from __future__ import annotations

import base64
import io
import json
import re
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the page needs the extra web")

import gradio as gr

from demo.web import guard, uploads
from demo.web.limits import Limits
from demo.web.models import Models
from demo.web.painter import painter
from demo.web.recent import Recent
from demo.web.running import Running
from demo.web.tab_oneformer import OneFormerHandlers, file_choices
from demo.web.tab_seggpt import SegGPTHandlers
from demo.web.tab_together import TogetherHandlers
from segcore.video import VideoSource, VideoWriter
from seggpt import SegGPTPredictor
from tests.pictures import CLASSES, photograph, prediction
from tests.seggpt.small_seggpt import small_model

LIMITS = Limits(clip_frames=6, pictures=2)


class Finder:
    """In place of OneFormer: the known results of tests/pictures.py, at any picture's size."""

    classes, device, weights = CLASSES, "cpu", "known"

    def __call__(self, image, task, confidence):
        known = prediction(image.shape[0] // 4)
        chosen = {name: getattr(known, name) if task in (name, "all") else None
                  for name in ("panoptic", "instance", "semantic")}
        return type(known)(known.size, known.classes, **chosen)


@pytest.fixture(scope="module")
def models() -> Models:
    return Models(Finder(), SegGPTPredictor(model=small_model()))


@pytest.fixture
def photo(tmp_path) -> str:
    Image.fromarray(photograph(24, 36)).save(tmp_path / "street view.png")
    return str(tmp_path / "street view.png")


@pytest.fixture
def clip(tmp_path) -> str:
    with VideoWriter(tmp_path / "clip.mp4", 5) as video:
        for _ in range(5):
            video.add(photograph(24, 36))
    return str(tmp_path / "clip.mp4")


def painted(*masks: np.ndarray, names: dict | None = None) -> str:
    """What the painter sends."""
    coded = []
    for mask in masks:
        stream = io.BytesIO()
        Image.fromarray(np.repeat(mask.astype(np.uint8)[..., None], 3, 2)).save(stream, format="PNG")
        coded.append("data:image/png;base64," + base64.b64encode(stream.getvalue()).decode())
    return json.dumps({"masks": coded, "names": names or {}})


def square(label: int = 1) -> np.ndarray:
    mask = np.zeros((24, 36), np.uint8)
    mask[5:15, 5:20] = label
    return mask


def run(steps) -> list:
    """The last value of each output that is no update to skip."""
    outputs = [None] * 4
    for step in steps:
        for i, value in enumerate(step):
            if not (isinstance(value, dict) and value.get("__type__") == "update" and len(value) == 1):
                outputs[i] = value
    return outputs


# ---- OneFormer


def test_oneformer_shows_every_task_and_makes_every_file(models, photo, tmp_path):
    handlers = OneFormerHandlers(models, LIMITS, tmp_path / "results")
    html, line, key = handlers.segment(photo, "all", 0.5, progress=lambda *_, **__: None)
    assert re.findall(r'class="sv-tab[^>]*>([^<]+)<', html) == ["Panoptic", "Instance", "Semantic", "Photograph"]
    assert "2 ×" in html and "36 × 24 pixels" in line
    kinds = [key for _, key in file_choices(handlers)]
    assert "cityscapes" in kinds  # sky, car and road are Cityscapes'
    files = handlers.save(key, kinds).value
    names = [file["path"].rsplit("/", 1)[1] for file in files]
    assert names == [f"street_view_{t}.png" for t in ("panoptic", "instance", "semantic")] + ["street_view_results.zip"]
    inside = zipfile.ZipFile(files[-1]["path"]).namelist()
    assert {"instances.json", "panoptic.json", "panoptic/street_view.png", "svg/panoptic/street_view.svg",
            "labelme/instance/street_view.json", "cityscapes/semantic/street_view.png"} <= set(inside)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["results", "street view.png"]


def test_a_viewers_map_and_names_belong_together(models, photo, tmp_path):
    html, *_ = OneFormerHandlers(models, LIMITS, tmp_path).segment(photo, "panoptic", 0.5, progress=lambda *_, **__: 0)
    code = re.search(r'data-map="data:image/png;base64,([^"]+)"', html).group(1)
    numbers = np.asarray(Image.open(io.BytesIO(base64.b64decode(code)))).astype(int) @ (1, 256, 0)
    regions = json.loads(re.search(r'data-regions="([^"]+)"', html).group(1).replace("&quot;", '"'))
    expected = prediction(6).panoptic
    for number, (segment, (name, _)) in enumerate(zip(expected.segments, regions), 1):
        assert name == segment.name and np.array_equal(numbers == number, expected.ids == segment.id)


def test_names_are_text_not_markup(models, tmp_path):
    from demo.web.viewer import Region, View, viewer

    evil = '<img src=x onerror="alert(1)">'
    html = viewer([View(evil, photograph(4, 4), evil, [Region(evil, evil, (1, 2, 3))], np.ones((4, 4), int))])
    assert "<img src=x" not in html and 'onerror="' not in html


def test_a_forgotten_result():
    recent = Recent(limit=10)
    first, second = recent.put("a", 6), recent.put("b", 6)
    assert recent.get(second) == "b" and recent.get(recent.put("large", 99)) == "large"
    with pytest.raises(ValueError, match="no longer in memory"):
        recent.get(first)
    with pytest.raises(ValueError, match="no result yet"):
        recent.get(None)


# ---- SegGPT


def test_seggpt_pictures(models, photo, tmp_path):
    handlers = SegGPTHandlers(models, LIMITS, tmp_path / "results")
    assert "sp-stage" in handlers.show([photo], None)
    text = painted(square(), names={"1": "cat <b>"})
    status, html, _, files = run(handlers.segment(text, [photo], [photo, photo], "semantic"))
    assert "2 of 2 pictures" in status and html.count("sv-pane") == 2 and "<b>" not in html.replace("<b></b>", "")
    with zipfile.ZipFile(files.value[0]["path"]) as archive:
        assert archive.namelist() == ["1_street_view.png", "2_street_view.png", "labels.json"]
        assert json.loads(archive.read("labels.json")) == {"1": "cat <b>"}
        labels = np.asarray(Image.open(archive.open("1_street_view.png")))
    image = uploads.read_picture(photo, LIMITS)
    prompts = models.seggpt.encode_prompts([image], [square().astype(np.int32)], type="semantic")
    assert np.array_equal(labels, models.seggpt(image, prompts).label_map), "the page says what the library says"


def test_seggpt_clip(models, photo, clip, tmp_path):
    handlers = SegGPTHandlers(models, LIMITS, tmp_path / "results")
    status, _, video, files = run(handlers.segment(painted(square()), [photo], [clip], "instance"))
    assert "5 frames in" in status
    assert len(list(VideoSource(video.value["video"]["path"] if "video" in video.value else video.value["path"]))) == 5
    assert len(zipfile.ZipFile(files.value[0]["path"]).namelist()) == 6


@pytest.mark.parametrize("closed", [False, True])
def test_a_cancelled_clip_leaves_no_video(models, photo, clip, tmp_path, closed):
    handlers = SegGPTHandlers(models, LIMITS, tmp_path / "results")
    steps = handlers.segment(painted(square()), [photo], [clip], "instance")
    for _ in range(4):
        next(steps)
    if closed:  # as Gradio ends a run
        steps.close()
    else:  # as the run ends itself
        handlers.running._runs[None].asked.set()
        assert list(steps) == []
    assert not [p for p in (tmp_path / "results").rglob("*") if p.suffix == ".webm"]


def test_cancel_waits_for_the_end_of_its_own_sessions_run():
    from threading import Timer

    running, mine, other = Running(), SimpleNamespace(session_hash="a"), SimpleNamespace(session_hash="b")
    ended = []
    with running.run(other):
        run = running.run(mine)
        run.__enter__()
        Timer(0.2, lambda: (ended.append(True), run.__exit__(None, None, None))).start()
        lines = running.cancelled(mine)
        assert "Cancelling" in next(lines) and not ended
        assert "Cancelled." in next(lines) and ended
    assert "Cancelled." in list(running.cancelled(mine))[-1], "nothing goes on: no wait"


def test_uploaded_masks_fill_the_painter(models, photo, tmp_path):
    mask = np.zeros((24, 36), np.uint8)
    mask[2:9, 3:30] = 7
    Image.fromarray(mask).save(tmp_path / "mask.png")
    html = SegGPTHandlers(models, LIMITS, tmp_path).show([photo], [str(tmp_path / "mask.png")])
    code = re.search(r'data-mask="data:image/png;base64,([^"]+)"', html).group(1)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(code))))[..., 0], mask == 7)


@pytest.mark.parametrize(("text", "words"), [
    ("", "Each example needs its painted mask"),
    ("[]", "did not arrive"),
    ("{", "did not arrive"),
    ('{"masks": ["data:image/png;base64,AAAA"]}', "cannot be read"),
    ('{"masks": ["file:///etc/passwd"]}', "did not arrive"),
    (painted(np.zeros((24, 36))), "Nothing is painted on example 1"),
    (painted(np.ones((9, 9))), "cannot be read"),
])  # fmt: skip
def test_what_the_painter_cannot_have_sent(models, photo, tmp_path, text, words):
    handlers = SegGPTHandlers(models, LIMITS, tmp_path)
    with pytest.raises(gr.Error, match=words):
        list(guard.guarded(handlers.segment)(text, [photo], [photo], "semantic"))


def test_bounds_are_sentences(models, photo, clip, tmp_path):
    handlers = SegGPTHandlers(models, LIMITS, tmp_path)
    for examples, targets, words in (
        (None, [photo], "Drop an example"), ([photo], None, "Drop the pictures"),
        ([photo] * 3, [photo], "3 examples; the page takes up to 2"), ([photo], [photo] * 3, "3 pictures; the page"),
        ([photo], [clip, photo], "one clip alone"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            list(handlers.segment(painted(*[square()] * len(examples or [])), examples, targets, "semantic"))
    with pytest.raises(ValueError, match="has 5 frames; the page takes up to 4"):
        uploads.UploadedClip(clip, Limits(clip_frames=4))
    with pytest.raises(ValueError, match="scale the clip down"):
        uploads.UploadedClip(clip, Limits(clip_pixels=100))
    (tmp_path / "list.mp4").write_text("#EXTM3U\nfile:///etc/passwd\n")
    with pytest.raises(ValueError, match="list.mp4 is not a clip that can be read"):
        uploads.UploadedClip(str(tmp_path / "list.mp4"), LIMITS)
    (tmp_path / "cut.mp4").write_bytes(Path(clip).read_bytes()[:200])
    with pytest.raises(ValueError, match="cut.mp4"):
        uploads.UploadedClip(str(tmp_path / "cut.mp4"), LIMITS)


def test_without_seggpts_weights(photo, tmp_path):
    handlers = SegGPTHandlers(Models(Finder(), None), LIMITS, tmp_path)
    with pytest.raises(ValueError, match="--seggpt-weights FILE"):
        list(handlers.segment(painted(square()), [photo], [photo], "semantic"))


# ---- together


def test_together(models, clip, tmp_path):
    handlers = TogetherHandlers(models, LIMITS, tmp_path / "results")
    _, key, choice = handlers.find(clip, "instance", 0.5, progress=lambda *_, **__: None)
    assert [label for label, _ in choice.choices] == ["1 · car 90%", "2 · car 60%"] and choice.value == [1, 2]
    status, _, _, files = run(handlers.follow(clip, key, [2, 1]))
    assert "5 frames" in status
    with zipfile.ZipFile(files.value[0]["path"]) as archive:
        first = np.asarray(Image.open(archive.open("masks/00000.png")))
    known = prediction(6).instance.masks
    assert np.array_equal(first == 1, known[1]) and np.array_equal(first == 2, known[0])
    with pytest.raises(ValueError, match="Choose 1 to 8"):
        list(handlers.follow(clip, key, []))
    with pytest.raises(ValueError, match="Find the objects"):
        list(handlers.follow(clip, None, [1]))


# ---- guard


def test_a_bug_is_logged_and_the_visitor_told(caplog):
    def broken():
        raise KeyError("inside")

    with pytest.raises(gr.Error, match=r"Something failed on the server \(KeyError\)"):
        guard.guarded(broken)()
    assert "inside" in caplog.text


def test_old_results_are_deleted(tmp_path):
    import os

    old, recent = uploads.new_folder(tmp_path, LIMITS), uploads.new_folder(tmp_path, LIMITS)
    os.utime(old, (0, 0))
    newest = uploads.new_folder(tmp_path, LIMITS)
    assert sorted(tmp_path.iterdir()) == sorted([recent, newest])


@pytest.mark.parametrize(("path", "name"), [
    ("../../etc/passwd.png", "passwd"), ("a b;$(rm).png", "a_b_rm"), ("漢字.png", "upload"),
    ("x" * 300 + ".png", "x" * 60), ("..png", "upload"), ("-rf.png", "-rf"),
])  # fmt: skip
def test_names_of_result_files_are_harmless(path, name):
    assert uploads.safe_name(path) == name


def test_the_painter_takes_no_more_than_it_has_colours_for(models, photo, tmp_path):
    Image.fromarray((np.arange(24 * 36).reshape(24, 36) % 20).astype(np.uint8)).save(tmp_path / "many.png")
    with pytest.raises(ValueError, match="19 labels; the page takes up to 8"):
        SegGPTHandlers(models, LIMITS, tmp_path).show([photo], [str(tmp_path / "many.png")])
    assert painter([photograph(5, 5)]).count("sp-label") >= 8


def test_the_page_is_for_this_machine_unless_told_otherwise(models, tmp_path):
    from demo import app
    from demo.web.page import serve

    assert app.parse_args([]).host == "127.0.0.1"
    page = serve(models, Limits(queue=3), port=None, work=str(tmp_path), block=False)
    try:
        assert page.server_name == "127.0.0.1" and page.local_url.startswith("http://127.0.0.1:")
        assert page._queue.max_size == 3 and not page.share and page.max_file_size == Limits().file_bytes
    finally:
        page.close(verbose=False)


def test_app_says_what_is_missing(repo, monkeypatch, capsys):
    from demo import app

    monkeypatch.setattr("demo.web.models.load_models", lambda *_: SimpleNamespace())

    def no_page(*_, **__):
        raise OSError("port 7860 is taken")

    monkeypatch.setattr("demo.web.page.serve", no_page)
    assert app.main([]) == 1 and "error: port 7860 is taken" in capsys.readouterr().err

"""Two hundred hostile or odd uploads through the page's API: each ends in a result or a sentence, and in no file
outside of the work folder, and the server goes on."""

from __future__ import annotations

import os
import re
import resource
import sys

import pytest

pytest.importorskip("gradio", reason="the page needs the extra web")

from demo.web.models import Models
from oneformer import OneFormerPredictor
from tests.demo.bad_files import bad_files
from tests.demo.page_server import Stranger, running
from tests.pictures import tiny_weights

# Python's audit events that make or move something on disk.
_WRITES = {"os.mkdir", "os.rename", "os.link", "os.symlink", "shutil.move", "shutil.copyfile"}
_written: list[str] | None = None


def _watch(event: str, arguments: tuple) -> None:
    """Note every path that this process writes to; an audit hook cannot be removed, so it looks at a switch."""
    if _written is None:
        return
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        path, mode, flags = arguments
        if (mode and set(mode) & set("wax+")) or (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            _written.append(os.fsdecode(path))
    elif event in ("os.system", "subprocess.Popen", "os.exec"):
        _written.append(f"started {arguments}")
    elif event in _WRITES:
        _written.append(os.fsdecode(arguments[1] if len(arguments) > 1 and event != "os.mkdir" else arguments[0]))


@pytest.fixture
def written():
    """The paths that were written to while the test ran."""
    global _written
    sys.addaudithook(_watch)
    _written = []
    yield _written
    _written = None


@pytest.fixture(scope="module")
def page(repo, tmp_path_factory):
    """(address, work folder) of a page with a tiny OneFormer and no SegGPT."""
    folder = tmp_path_factory.mktemp("page")
    weights = tiny_weights(repo, folder / "tiny.safetensors")
    models = Models(OneFormerPredictor(weights=weights, device="cpu"), None)
    with running(models, folder / "work") as url:
        # What a first request loads (fonts, codecs) may make caches of its own; the visitors come after it.
        stranger = Stranger(url)
        path = stranger.upload("first.png", dict(bad_files())["good_text.png"])
        assert stranger.call("oneformer", stranger.file(path), "all", 0.5).data is not None
        yield url, folder / "work"


def test_two_hundred_uploads(page, written):
    url, work = page
    stranger = Stranger(url)
    files = bad_files()
    assert len(files) >= 200
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    problems, results = [], 0
    for name, content in files:
        path = stranger.upload(name, content)
        if path is None:
            if name.startswith("good_"):
                problems.append(f"{name!r}: the upload was refused")
            continue
        assert os.path.realpath(path).startswith(str(work)), f"{name!r} was stored at {path}"
        answer = stranger.call("oneformer", stranger.file(path), "semantic", 0.5)
        if answer.data is not None:
            results += 1
        elif name.startswith("good_"):
            problems.append(f"{name!r}: {answer.error}")
        elif "log has the details" in answer.error or "/" in re.sub(r"[A-Za-z]+/[A-Za-z]+", "", answer.error):
            problems.append(f"{name!r} is answered by an unexpected error or a path: {answer.error}")
    assert not problems, "\n".join(problems)
    assert results > 40
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 700, f"memory grew by {grown:.0f} MB; 50 million pixels take 150 MB, twice while they are turned"
    outside = {path for path in written if not os.path.realpath(path).startswith(str(work))} - {os.devnull}
    assert not outside, f"written outside of the work folder: {sorted(outside)[:5]}"


def test_other_files_of_the_machine_are_not_read(page):
    url, _ = page
    stranger = Stranger(url)
    for path in ("/etc/passwd", __file__, "../../../../etc/passwd", "http://127.0.0.1:9/x.png"):
        answer = stranger.call("oneformer", stranger.file(path), "semantic", 0.5)
        assert answer.data is None, path
    for path in ("/etc/passwd", __file__):
        assert stranger.http.get(f"/file={path}").status_code in (403, 404)


def test_too_large_a_file_is_refused(repo, page, tmp_path):
    from demo.web.limits import Limits
    from demo.web.uploads import read_picture

    big = tmp_path / "big.png"
    big.write_bytes(bytes(5000))
    with pytest.raises(ValueError, match="the page takes up to 0 MB"):
        read_picture(str(big), Limits(file_bytes=4000))


def test_a_wrong_word_is_a_sentence(page):
    stranger = Stranger(page[0])
    path = stranger.upload("a.png", dict(bad_files())["good_one_pixel.png"])
    assert stranger.call("oneformer", stranger.file(path), "panoptik", 0.5).data is None
    assert "drop one first" in stranger.call("oneformer", None, "all", 0.5).error
    assert "weights are not here" in stranger.call("seggpt", "{}", [], [], "semantic").error
    assert stranger.call("oneformer", stranger.file(path), "all", 0.5).data is not None, "the server goes on"

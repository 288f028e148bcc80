"""What a user names becomes sources whose results cannot overwrite each other."""

from __future__ import annotations

import pytest

from segcore.inputs import find_sources


@pytest.fixture
def photos(tmp_path, monkeypatch):
    for name in ("b.jpg", "a.PNG", "clip.mp4", "notes.txt", ".hidden.jpg", "below/a.jpg", "below/odd[1].jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*inputs: str, **options) -> list[str]:
    return [source.name for source in find_sources(inputs, **options)]


def test_folders_globs_files_and_cameras(photos):
    assert [(s.name, s.is_video) for s in find_sources(["."])] == [("a", False), ("b", False), ("clip", True)]
    assert names("*.jpg") == ["b"]
    assert names("**/*.jpg") == ["b", "a", "odd[1]"]
    assert names("below/odd[1].jpg") == ["odd[1]"]  # a file of that very name, not a pattern
    assert names("notes.txt") == ["notes"]  # named by hand: reading it decides
    assert names("0") == ["camera0"] and names(cameras=[2]) == ["camera2"]
    assert find_sources(["0"])[0].place == 0 and find_sources(["0"])[0].is_video


def test_equal_stems_get_names_of_their_own(photos):
    (photos / "A_2.jpg").write_bytes(b"")
    assert names("a.PNG", "below/a.jpg", "A_2.jpg") == ["a", "a_2", "A_2_2"]
    assert names("b.jpg", "b.jpg", "*.jpg", "A_2.jpg") == ["b", "A_2"]  # the same file once


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("none.jpg", "input none.jpg does not exist"),
        ("*.gif", r"no file matches \*.gif"),
        ("empty", "folder empty holds no image or video"),
    ],
)
def test_what_names_nothing(photos, given, message):
    (photos / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=message):
        find_sources(["b.jpg", given])

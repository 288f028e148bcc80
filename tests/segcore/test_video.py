"""Videos: frames in, frames out, and no file that is not whole."""

from __future__ import annotations

import numpy as np
import pytest

from segcore.video import VideoSource, VideoWriter


def frames(count: int = 4, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Plain frames, red to yellow: the codec keeps them nearly."""
    return [np.full((height, width, 3), (220, 60 * i, 20), np.uint8) for i in range(count)]


def write(path, pictures, fps=10.0):
    with VideoWriter(path, fps) as video:
        for picture in pictures:
            video.add(picture)


def test_what_is_written_is_read(tmp_path):
    write(tmp_path / "a.mp4", frames())
    video = VideoSource(str(tmp_path / "a.mp4"))
    assert (video.fps, video.count) == (10.0, 4)
    read = list(video)
    assert len(read) == 4
    for before, after in zip(frames(), read):
        assert after.shape == before.shape
        np.testing.assert_allclose(after.mean((0, 1)), before.mean((0, 1)), atol=12)  # RGB, not BGR
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("size", [(49, 65), (1, 1), (1, 64)])
def test_odd_sizes(tmp_path, size):
    write(tmp_path / "a.mp4", frames(2, *size))
    assert next(iter(VideoSource(str(tmp_path / "a.mp4")))).shape[:2] == tuple(
        max(2, s // 2 * 2) for s in size
    )


def test_an_error_leaves_no_file(tmp_path):
    with pytest.raises(RuntimeError, match="broke"), VideoWriter(tmp_path / "a.mp4", 10) as video:
        video.add(frames()[0])
        raise RuntimeError("broke")
    assert list(tmp_path.iterdir()) == []


def test_stopping_by_hand_keeps_what_there_is(tmp_path):
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "a.mp4", 10) as video:
        video.add(frames()[0])
        raise KeyboardInterrupt
    assert len(list(VideoSource(str(tmp_path / "a.mp4")))) == 1


def test_no_frames_no_file(tmp_path):
    write(tmp_path / "a.mp4", [])
    assert list(tmp_path.iterdir()) == []


def test_frames_of_two_sizes(tmp_path):
    with pytest.raises(ValueError, match=r"must be \(64, 48\) .* got \(32, 48\)"):
        write(tmp_path / "a.mp4", [*frames(1), *frames(1, 48, 32)])
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_video(tmp_path):
    (tmp_path / "torn.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42 and no more")
    with pytest.raises(ValueError, match=r"cannot read video .*torn.mp4: the file is damaged or no video"):
        VideoSource(str(tmp_path / "torn.mp4"))
    with pytest.raises(FileNotFoundError, match=r"none.mp4 does not exist"):
        VideoSource(str(tmp_path / "none.mp4"))
    with pytest.raises(ValueError, match="cannot read camera 77: is it plugged in and free"):
        VideoSource(77)

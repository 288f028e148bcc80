"""Clips: every frame is answered once and in order, memory stays bounded, broken frames are named."""

from __future__ import annotations

import gc
import weakref

import cv2
import numpy as np
import pytest
from PIL import Image

from seggpt import SegGPTPredictor
from seggpt.drawing import save_label_map
from seggpt.frames import Clip, Frame, FrameError, open_clip
from seggpt.runner import segment_clip
from seggpt.video import VideoSegmenter

SIZE = (30, 48)


@pytest.fixture
def predictor(model):
    return SegGPTPredictor(model=model, device="cpu", batch_size=2)


def frame(index: int) -> Frame:
    pixels = np.random.default_rng(index).integers(0, 256, (*SIZE, 3), np.uint8)
    return Frame(index, f"{index:05d}", pixels)


def mask(label: int = 1) -> np.ndarray:
    out = np.zeros(SIZE, np.int32)
    out[5:20, 8:30] = label
    return out


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "clip"
    path.mkdir()
    for i in range(4):
        Image.fromarray(frame(i).pixels).save(path / f"{i:05d}.png")
    return path


@pytest.mark.parametrize("memory", [0, 2])
@pytest.mark.parametrize("separate", [False, True])
def test_every_frame_is_answered_and_the_first_is_the_mask(predictor, memory, separate):
    given = mask(3)
    given[25:] = 7
    segmenter = VideoSegmenter(predictor, memory=memory, separate=separate)
    results = list(segmenter.from_first_frame((frame(i) for i in range(5)), given))
    assert [r.frame.index for r in results] == [0, 1, 2, 3, 4]
    assert [r.given for r in results] == [True, False, False, False, False]
    assert np.array_equal(results[0].prediction.label_map, given)
    for result in results:
        assert result.prediction.label_map.shape == SIZE
        assert set(np.unique(result.prediction.label_map)) <= {0, 3, 7}


def test_memory_is_anchor_and_last_frames_with_their_answers(predictor, monkeypatch):
    def all_marked(prediction, fit="squash"):
        return np.ones(predictor.size, np.int32)

    monkeypatch.setattr(predictor, "canvas_labels", all_marked)
    segmenter = VideoSegmenter(predictor, memory=2)
    results = list(segmenter.from_first_frame((frame(i) for i in range(5)), mask()))
    images = [frame(0).pixels, frame(2).pixels, frame(3).pixels]
    by_hand = predictor.encode_prompts(images, [mask(), np.ones(SIZE, bool), np.ones(SIZE, bool)])
    difference = predictor(frame(4).pixels, by_hand).scores[1] - results[4].prediction.scores[1]
    assert np.abs(difference).max() <= 1e-5


def test_independent_frames_equal_single_pictures(predictor):
    prompts = predictor.encode_prompts(frame(0).pixels, mask())
    results = VideoSegmenter(predictor, memory=0).from_prompts((frame(i) for i in range(5)), prompts)
    for i, result in enumerate(results):
        alone = predictor(frame(i).pixels, prompts)
        assert np.abs(alone.scores[1] - result.prediction.scores[1]).max() <= 1e-5
    assert i == 4


@pytest.mark.parametrize("memory", [0, 2])
def test_frames_are_forgotten(predictor, memory):
    alive = []

    def frames():
        for i in range(8):
            item = frame(i)
            alive.append(weakref.ref(item.pixels))
            yield item
            del item

    most = 0
    for _ in VideoSegmenter(predictor, memory=memory).from_first_frame(frames(), mask()):
        gc.collect()
        most = max(most, sum(r() is not None for r in alive))
    assert len(alive) == 8 and most <= 4  # one batch of two, the frame in hand, the one being read


@pytest.mark.parametrize("separate", [False, True])
def test_memory_keeps_the_aspect_as_prompts_do(predictor, separate):
    segmenter = VideoSegmenter(predictor, memory=2, fit="pad", separate=separate)
    seen = []
    encode = predictor.encode_canvases
    predictor.encode_canvases = lambda *a, **k: seen.append(encode(*a, **k)) or seen[-1]
    results = list(segmenter.from_first_frame((frame(i) for i in range(4)), mask()))
    assert len(results) == 4 and all(r.prediction.label_map.shape == SIZE for r in results)
    padding = seen[-1].features.padding[0]
    assert padding.any() and (padding == padding[0]).all()
    assert seen[0].covered() == [(48, 64)]   # 30 x 48 pixels on 64 x 64: 40 rows, in patches of 16
    assert np.array_equal(seen[0].label_maps()[0], seen[-1].label_maps()[0])


def test_the_mask_can_be_made_of_the_first_frame(predictor):
    asked = []

    def make(pixels):
        asked.append(pixels)
        return mask(4)

    frames = [frame(2), frame(3)]   # frame 0 is not needed then
    results = list(VideoSegmenter(predictor, memory=0).from_first_frame(iter(frames), make))
    assert len(asked) == 1 and asked[0] is frames[0].pixels
    assert results[0].given and np.array_equal(results[0].prediction.label_map, mask(4)) and len(results) == 2


def test_a_palette_folder_comes_out(predictor, folder, tmp_path):
    report = segment_clip(
        VideoSegmenter(predictor, memory=1), open_clip(folder), tmp_path / "out", first_mask=mask(2)
    )
    assert report.written == 4 and report.skipped == []
    first = Image.open(tmp_path / "out/masks/00000.png")
    assert first.mode == "P" and np.array_equal(np.asarray(first), mask(2))
    assert first.getpalette()[6:9] == [0, 128, 0]
    assert len(list((tmp_path / "out/masks").iterdir())) == 4
    video = cv2.VideoCapture(str(tmp_path / "out/overlay.mp4"))
    assert sum(video.read()[0] for _ in range(5)) == 4
    again = open_clip(tmp_path / "out/overlay.mp4")
    assert [f.index for f in again] == [0, 1, 2, 3] and again.length == 4


def test_a_broken_frame_is_named(predictor, folder, tmp_path):
    (folder / "00002.png").write_bytes(b"\x89PNG broken")
    segmenter = VideoSegmenter(predictor, memory=1)
    with pytest.raises(FrameError, match=r"frame 2 of .*00002\.png"):
        segment_clip(segmenter, open_clip(folder), tmp_path / "out", first_mask=mask())
    clip = open_clip(folder, on_error="skip")
    report = segment_clip(segmenter, clip, tmp_path / "out2", first_mask=mask())
    assert report.written == 3 and len(report.skipped) == 1 and "frame 2" in report.skipped[0]
    assert sorted(p.stem for p in (tmp_path / "out2/masks").iterdir()) == ["00000", "00001", "00003"]


def test_a_mask_never_moves_to_another_frame(predictor, folder, tmp_path):
    (folder / "00000.png").write_bytes(b"broken")
    clip = open_clip(folder, on_error="skip")
    with pytest.raises(ValueError, match="frame 0, which was left out"):
        segment_clip(VideoSegmenter(predictor), clip, tmp_path / "out", first_mask=mask())


def test_a_frame_of_another_size_is_named(folder):
    Image.fromarray(frame(9).pixels[:20]).save(folder / "00002.png")
    with pytest.raises(FrameError, match=r"frame 2 of .*48x20 pixels, the frames before it 48x30"):
        list(open_clip(folder))
    clip = open_clip(folder, on_error="skip")
    assert [f.index for f in clip] == [0, 1, 3] and len(clip.skipped) == 1


def test_a_damaged_video_says_which_frames_are_lost(tmp_path):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 24, SIZE[::-1])
    for i in range(30):
        writer.write(frame(i).pixels)
    writer.release()
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    clip = open_clip(path, on_error="skip")
    whole = [f.index for f in clip]
    assert whole == list(range(len(whole))) and 5 < len(whole) < 20
    assert f"frame {len(whole)} of 30" in clip.skipped[0]
    with pytest.raises(FrameError, match=f"frame {len(whole)} of 30"):
        list(open_clip(path))


def test_a_camera_is_stopped_by_hand(predictor, tmp_path):
    def frames(clip):
        yield frame(0)
        yield frame(1)
        raise KeyboardInterrupt

    for length in (None, 9):
        clip = Clip("camera 0", 24.0, length, False, frames)
        arguments = VideoSegmenter(predictor, memory=1), clip, tmp_path / f"out{length}"
        if length is None:
            assert segment_clip(*arguments, first_mask=mask()).written == 2
            assert len(list(open_clip(tmp_path / "outNone/overlay.mp4"))) == 2
        else:
            with pytest.raises(KeyboardInterrupt):
                segment_clip(*arguments, first_mask=mask())


def test_bad_clips_are_refused(predictor, tmp_path):
    with pytest.raises(FileNotFoundError, match="no clip"):
        open_clip(tmp_path / "none.mp4")
    with pytest.raises(ValueError, match="no pictures"):
        open_clip(tmp_path)
    for name in ("1.png", "1.jpg"):
        Image.fromarray(frame(0).pixels).save(tmp_path / name)
    with pytest.raises(ValueError, match="2 pictures named '1'"):
        open_clip(tmp_path)
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot read video"):
        open_clip(tmp_path / "broken.mp4")
    with pytest.raises(ValueError, match="no frame"):
        list(VideoSegmenter(predictor).from_first_frame([], mask()))
    with pytest.raises(ValueError, match="its image 48x30"):
        list(VideoSegmenter(predictor).from_first_frame([frame(0)], mask()[:9]))
    with pytest.raises(ValueError, match="memory"):
        VideoSegmenter(predictor, memory=-1)
    grid = predictor.encode_prompts([frame(0).pixels] * 2, [mask()] * 2, ensemble="spatial")
    with pytest.raises(ValueError, match="memory=0"):
        list(VideoSegmenter(predictor).from_prompts([frame(0)], grid))
    with pytest.raises(ValueError, match="memory=0"):
        VideoSegmenter(predictor, tile=20)


def test_many_labels_need_sixteen_bits(tmp_path):
    labels = np.array([[0, 300], [65535, 1]])
    save_label_map(tmp_path / "m.png", labels)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "m.png")), labels)
    with pytest.raises(ValueError, match="65535"):
        save_label_map(tmp_path / "m.png", labels + 1)

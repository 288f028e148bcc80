"""J and F by hand and against another computation; clips followed and judged."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from seggpt.drawing import save_label_map
from seggpt.evaluation.vos import evaluate_clip, find_clips, segment_clip, write_submission
from seggpt.evaluation.vos_measures import boundary, boundary_accuracy, region_similarity
from seggpt.predictor import SegGPTPredictor
from seggpt.video import VideoSegmenter


def square(size: int, top: int, left: int, side: int) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def reference_f(predicted: np.ndarray, truth: np.ndarray) -> float:
    """The same measure from distances: a boundary pixel matches if the other boundary is within the radius."""
    radius = math.ceil(0.008 * math.hypot(*truth.shape))

    def edges(mask):
        out = np.zeros_like(mask)
        rows, cols = mask.shape
        for r in range(rows):
            for c in range(cols):
                around = [(r, c + 1), (r + 1, c), (r + 1, c + 1)]
                if r == rows - 1:
                    around = [(r, c + 1)]
                elif c == cols - 1:
                    around = [(r + 1, c)]
                out[r, c] = any(i < rows and j < cols and mask[i, j] != mask[r, c] for i, j in around)
        return out

    a, b = edges(predicted), edges(truth)
    precision = (ndimage.distance_transform_edt(~b)[a] <= radius).mean()
    recall = (ndimage.distance_transform_edt(~a)[b] <= radius).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def test_region_by_hand():
    assert region_similarity(square(8, 0, 0, 4), square(8, 0, 2, 4)) == pytest.approx(8 / 24)
    empty = np.zeros((4, 4), bool)
    assert region_similarity(empty, empty) == 1 and region_similarity(empty, square(4, 0, 0, 1)) == 0


def test_boundary_by_hand():
    mask = square(5, 1, 1, 2)
    expected = ["11100", "10100", "11100", "00000", "00000"]
    assert ["".join(str(int(b)) for b in row) for row in boundary(mask)] == expected


def test_outline_extremes():
    empty, some = np.zeros((50, 50), bool), square(50, 10, 10, 20)
    assert boundary_accuracy(some, some) == 1 == boundary_accuracy(empty, empty)
    assert boundary_accuracy(empty, some) == 0 == boundary_accuracy(some, empty)
    assert boundary_accuracy(square(50, 0, 0, 5), square(50, 40, 40, 5)) == 0


@pytest.mark.parametrize("shift", [0, 1, 2, 3, 5, 9])
def test_shifted_and_grown_blobs_against_distances(shift):
    rng = np.random.default_rng(shift)
    truth = ndimage.gaussian_filter(rng.normal(size=(90, 120)), 6) > 0.01
    moved = np.roll(truth, shift, 1)
    grown = ndimage.binary_dilation(truth, iterations=shift) if shift else truth
    for predicted in (moved, grown):
        assert boundary_accuracy(predicted, truth) == pytest.approx(reference_f(predicted, truth))


def test_real_masks_shifted_by_known_amounts(spec_dir):
    files = sorted((spec_dir.parent / "data" / "davis_vos" / "Annotations").rglob("*.png"))[::25]
    if not files:
        pytest.skip("no DAVIS masks beside the goldens")
    for path in files:
        truth = np.asarray(Image.open(path)) == 1
        truth = truth[::4, ::4]
        for shift in (1, 4):
            predicted = np.roll(truth, shift, 0)
            assert boundary_accuracy(predicted, truth) == pytest.approx(reference_f(predicted, truth))
            expected = (predicted * truth).sum() / (predicted + truth > 0).sum()
            assert region_similarity(predicted, truth) == pytest.approx(expected)


@pytest.fixture
def clip(tmp_path):
    """Four frames; object 1 from the first, object 2 from the third on."""
    rng = np.random.default_rng(0)
    for kind in ("frames", "labels"):
        (tmp_path / kind / "a").mkdir(parents=True)
    for i in range(4):
        labels = np.zeros((40, 60), np.int32)
        labels[5:20, 5 + i : 20 + i] = 1
        if i >= 2:
            labels[22:38, 40:56] = 2
        image = np.where(labels[..., None] > 0, labels[..., None] * 100, rng.integers(0, 50, (40, 60, 3)))
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / "frames" / "a" / f"{i:05d}.png")
        save_label_map(tmp_path / "labels" / "a" / f"{i:05d}.png", labels)
    return find_clips(tmp_path / "frames", tmp_path / "labels")[0]


def test_perfect_answers_get_everything(clip):
    truths = [np.asarray(Image.open(clip.labels[f.stem])).astype(np.int32) for f in clip.frames]
    assert evaluate_clip(truths, clip) == {1: (1.0, 1.0)}
    wrong = [np.zeros_like(t) for t in truths]
    assert evaluate_clip(wrong, clip) == {1: (0.0, 0.0)}


def test_objects_start_where_they_are_first_shown(model, clip, tmp_path):
    segmenter = VideoSegmenter(SegGPTPredictor(model=model), memory=1, separate=True)
    answers = list(segment_clip(segmenter, clip, every_label=True))
    assert [a.shape for a in answers] == [(40, 60)] * 4
    assert 2 not in np.unique(answers[0]) and 2 not in np.unique(answers[1])
    assert (answers[0] == np.asarray(Image.open(clip.labels["00000"]))).all()  # the given mask itself
    assert set(np.unique(list(segment_clip(segmenter, clip)))) <= {0, 1}
    write_submission(segmenter, [clip], tmp_path / "out", every_label=True)
    written = sorted((tmp_path / "out" / "Annotations" / "a").iterdir())
    assert [p.stem for p in written] == [f.stem for f in clip.frames]
    assert all((np.asarray(Image.open(p)) == a).all() for p, a in zip(written, answers))


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        find_clips(tmp_path / "none", tmp_path)
    (tmp_path / "labels" / "a").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="clip 'a' has 0 frames and 0 label"):
        find_clips(tmp_path, tmp_path / "labels")

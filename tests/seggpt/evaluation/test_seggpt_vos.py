"""J and F by hand and against another computation; clips followed and judged."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from PIL import Image
from scipy import ndimage

from seggpt import add_seggpt_config
from seggpt.commands.vos import main
from seggpt.drawing import save_label_map
from seggpt.evaluation.vos import evaluate_clip, find_clips, segment_clip, write_submission
from seggpt.evaluation.vos_measures import boundary, boundary_accuracy, region_similarity
from seggpt.predictor import SegGPTPredictor
from seggpt.video import VideoSegmenter
from tests.seggpt.small_seggpt import SMALL


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


@pytest.fixture(scope="module")
def davis(spec_dir):
    folder = spec_dir.parent / "data" / "davis_vos"
    if not folder.is_dir():
        pytest.skip("no DAVIS clips beside the goldens")
    return folder


def distances_f(predicted: np.ndarray, truth: np.ndarray) -> float:
    """F for large masks: where a 2 x 2 window has both values, and exact distances."""
    radius = math.ceil(0.008 * math.hypot(*truth.shape))

    def edges(mask):
        around = {"size": 2, "origin": -1, "mode": "nearest"}
        return ndimage.maximum_filter(mask, **around) != ndimage.minimum_filter(mask, **around)

    a, b = edges(predicted), edges(truth)
    precision = (ndimage.distance_transform_edt(~b)[a] <= radius).mean()
    recall = (ndimage.distance_transform_edt(~a)[b] <= radius).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("clip_name,frame", [("bmx-trees", "00000"), ("camel", "00010"), ("car-shadow", "00015")])
def test_real_masks_shifted_and_grown_by_known_amounts(davis, clip_name, frame):
    truth = np.asarray(Image.open(davis / "Annotations" / "480p" / clip_name / f"{frame}.png")) == 1
    assert truth.shape == (480, 854) and math.ceil(0.008 * math.hypot(*truth.shape)) == 8
    inside = ndimage.binary_erosion(np.ones_like(truth), iterations=12, border_value=0) & truth
    y, x = np.mgrid[-5:6, -5:6]
    changed = {
        **{f"shift {n}": np.roll(inside, n, 1) for n in (1, 8, 9, 12)},
        "down 8": np.roll(inside, 8, 0),
        "grown": ndimage.binary_dilation(inside, x * x + y * y <= 25),
        "shrunk": ndimage.binary_erosion(inside, iterations=2),
    }
    for name, predicted in changed.items():
        points = np.flatnonzero(predicted), np.flatnonzero(inside)
        expected = len(np.intersect1d(*points)) / len(np.union1d(*points))
        assert region_similarity(predicted, inside) == pytest.approx(expected), name
        assert boundary_accuracy(predicted, inside) == pytest.approx(distances_f(predicted, inside)), name
    # Eight pixels is the tolerance of this size: a shift within it costs the outline nothing, one more pixel does.
    assert boundary_accuracy(changed["shift 8"], inside) == boundary_accuracy(changed["down 8"], inside) == 1
    assert boundary_accuracy(changed["shift 12"], inside) < boundary_accuracy(changed["shift 9"], inside) < 1


def test_void_of_davis_is_background_as_in_its_tool(davis):
    folder = davis / "multiobject_tiny"
    one = find_clips(folder / "JPEGImages" / "480p", folder / "Annotations" / "480p", ["tennis"])[0]
    stem = one.frames[0].stem
    raw = np.asarray(Image.open(one.labels[stem]))
    assert set(np.unique(raw)) == {0, 1, 2, 255}
    assert set(np.unique(one.read_labels(stem))) == {0, 1, 2}
    answers = [one.read_labels(f.stem) for f in one.frames]
    assert evaluate_clip(answers, one, skip_ends=False) == {1: (1.0, 1.0), 2: (1.0, 1.0)}
    on_void = [np.where(np.asarray(Image.open(one.labels[f.stem])) == 255, 1, a) for f, a in zip(one.frames, answers)]
    assert evaluate_clip(on_void, one, skip_ends=False)[1][0] < 1
    assert set(np.unique(one._replace(single=True).read_labels(stem))) == {0, 1}


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
    written = sorted((tmp_path / "out" / "a").iterdir())
    assert [p.stem for p in written] == [f.stem for f in clip.frames]
    assert all((np.asarray(Image.open(p)) == a).all() for p, a in zip(written, answers))


@pytest.fixture
def weights(model, tmp_path):
    """Small weights as a portable file, and a config that fits them."""
    cfg = get_cfg()
    add_seggpt_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "SegGPT"
    for key, value in SMALL.items():
        cfg.MODEL.SEGGPT[key.upper()] = list(value) if isinstance(value, tuple) else value
    (tmp_path / "small.yaml").write_text(cfg.dump())
    torch.save({"model": model.state_dict()}, tmp_path / "small.pth")
    return ["--weights", str(tmp_path / "small.pth"), "--config-file", str(tmp_path / "small.yaml"), "--device", "cpu"]


def lay_out(clip, root, frames: str, labels: str, values=lambda v: v, given: int | None = None) -> None:
    """The clip as a benchmark keeps it; `given`: of how many frames labels are published."""
    for folder in (frames, labels):
        (root / folder / "a").mkdir(parents=True)
    for number, path in enumerate(clip.frames):
        Image.open(path).save(root / frames / "a" / f"{path.stem}.jpg")
        if given is None or number < given:
            save_label_map(root / labels / "a" / path.name, values(np.asarray(Image.open(clip.labels[path.stem]))))


@pytest.mark.parametrize("name,year", [("davis2017", 2017), ("davis2016", 2016)])
def test_davis_by_its_command(clip, weights, tmp_path, capsys, name, year):
    def values(v):
        return np.where(v > 0, 255, 0).astype(np.uint8) if year == 2016 else v

    root = tmp_path / "DAVIS"
    lay_out(clip, root, "JPEGImages/480p", "Annotations/480p", values)
    (root / "ImageSets" / str(year)).mkdir(parents=True)
    (root / "ImageSets" / str(year) / "val.txt").write_text("a\n")
    assert main(["--benchmark", name, "--root", str(root), "--output", str(tmp_path / "out"), *weights]) == 0
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["all"]["objects"] == 1 and set(found) == {"all", "a/1"}
    assert found["all"]["J&F"] == pytest.approx((found["a/1"]["J"] + found["a/1"]["F"]) / 2)
    assert "J&F" in capsys.readouterr().out
    judged = find_clips(root / "JPEGImages/480p", root / "Annotations/480p", single=year == 2016)[0]
    saved = sorted((tmp_path / "out" / "Annotations" / "a").iterdir())
    again = evaluate_clip([np.asarray(Image.open(p)) for p in saved], judged)
    assert found["a/1"] == pytest.approx({"J": 100 * again[1][0], "F": 100 * again[1][1]})


def test_submission_files(clip, weights, tmp_path):
    root = tmp_path / "YouTube"
    lay_out(clip, root, "valid_all_frames/JPEGImages", "valid/Annotations")
    (root / "valid" / "JPEGImages" / "a").mkdir(parents=True)
    for path in clip.frames[::2]:  # the server asks for every second frame here
        Image.open(path).save(root / "valid" / "JPEGImages" / "a" / f"{path.stem}.jpg")
    for path in clip.frames[1::2]:
        (root / "valid" / "Annotations" / "a" / path.name).unlink()
    assert main(["--benchmark", "youtube-vos", "--root", str(root), "--output", str(tmp_path / "yt"), *weights]) == 0
    written = sorted((tmp_path / "yt" / "Annotations" / "a").iterdir())
    assert [p.name for p in written] == ["00000.png", "00002.png"]
    assert 2 in np.unique(np.asarray(Image.open(written[1])))  # given there

    lay_out(clip, tmp_path / "MOSE", "valid/JPEGImages", "valid/Annotations", given=1)
    root = str(tmp_path / "MOSE")
    assert main(["--benchmark", "mose", "--root", root, "--output", str(tmp_path / "mose"), *weights]) == 0
    written = sorted((tmp_path / "mose" / "Annotations" / "a").iterdir())
    assert len(written) == 4 and Image.open(written[0]).mode == "P"
    with pytest.raises(FileNotFoundError, match="no list of clips"):
        main(["--benchmark", "davis2017", "--root", root, *weights])


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        find_clips(tmp_path / "none", tmp_path)
    (tmp_path / "labels" / "a").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="clip 'a' has 0 frames and 0 label"):
        find_clips(tmp_path, tmp_path / "labels")

"""Windows: their places, joining by hand-drawn results, and the whole image where one window covers it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from detectron2.structures import Instances

from oneformer.inference import SlidingWindow
from oneformer.inference.stitching import InstanceCanvas, PanopticCanvas, SemanticCanvas
from oneformer.inference.tiling import Rectangle, scaled, windows
from tests.oneformer.modeling.compact import compact_model, image

LOOSE = ("MODEL.TEST.OBJECT_MASK_THRESHOLD", 0.3, "MODEL.TEST.OVERLAP_THRESHOLD", 0.2)


@pytest.mark.parametrize(
    ("size", "window", "overlap"),
    [((100, 230), (64, 64), 0.25), ((64, 64), (64, 64), 0.5), ((30, 1), (64, 64), 0), ((200, 65), (64, 32), 0.9)],
)
def test_cores_tile_the_image_and_neighbours_overlap(size, window, overlap):
    places = windows(size, window, overlap)
    times = np.zeros(size, int)
    for place in places:
        times[place.core.slices] += 1
        assert place.seen.size == tuple(map(min, size, window))
        assert place.core.within(place.seen).size == place.core.size  # a window sees all of its core
    assert (times == 1).all()
    lefts = sorted({place.seen.left for place in places})
    common = [a + min(window[1], size[1]) - b for a, b in itertools.pairwise(lefts)]
    assert all(c >= int(overlap * min(window[1], size[1])) for c in common)


def test_an_image_that_fits_has_one_window():
    whole = Rectangle(0, 0, 40, 50)
    assert windows((40, 50), (40, 64), 0.25) == [(whole, whole)]
    assert scaled(whole, (40, 50), (81, 99)) == (0, 0, 81, 99)


@pytest.mark.parametrize(("window", "overlap"), [((0, 5), 0.2), ((5, 5), 1.0), ((5, 5), -0.1)])
def test_impossible_windows(window, overlap):
    with pytest.raises(ValueError, match="expected pixels"):
        windows((10, 10), window, overlap)


@pytest.fixture(scope="module")
def model():
    return compact_model(*LOOSE).eval()


@pytest.mark.parametrize("output_size", [(50, 70), (61, 43)])
def test_one_window_equals_the_whole_image(model, output_size):
    x = {"image": image(50, 70), "height": output_size[0], "width": output_size[1], "task": "all"}
    with torch.inference_mode():
        (whole,) = model([x])
        (seen,) = SlidingWindow(model, window=(64, 96))([x])
    assert whole["panoptic_seg"][1] and len(whole["instances"]) > 3
    assert torch.allclose(seen["sem_seg"], whole["sem_seg"], atol=1e-5, rtol=0)
    assert torch.equal(seen["panoptic_seg"][0], whole["panoptic_seg"][0])
    assert seen["panoptic_seg"][1] == whole["panoptic_seg"][1]
    for field in ("pred_masks", "pred_classes"):
        assert torch.equal(seen["instances"].get(field), whole["instances"].get(field))
    assert torch.allclose(seen["instances"].scores, whole["instances"].scores, atol=1e-5, rtol=0)
    assert torch.equal(seen["instances"].pred_boxes.tensor, whole["instances"].pred_boxes.tensor)


def test_several_windows_give_results_of_the_whole_size(model):
    x = {"image": image(70, 150), "height": 81, "width": 160, "task": "all"}
    with torch.inference_mode():
        (found,) = SlidingWindow(model, window=(64, 64), overlap=0.25)([x])
    ids, segments = found["panoptic_seg"]
    assert found["sem_seg"].shape == (4, 81, 160) and torch.isfinite(found["sem_seg"]).all()
    assert ids.shape == (81, 160) and set(ids.unique().tolist()) - {0} == {s["id"] for s in segments}
    assert found["instances"].pred_masks.shape[1:] == (81, 160)
    assert len(found["instances"]) <= model.max_instances
    assert (found["instances"].scores.diff() <= 0).all()


LEFT, RIGHT = Rectangle(0, 0, 4, 8), Rectangle(0, 4, 4, 12)
LEFT_CORE, RIGHT_CORE = Rectangle(0, 0, 4, 6), Rectangle(0, 6, 4, 12)


def row(*values):
    """A map of four equal rows."""
    return torch.tensor([values] * 4, dtype=torch.int32)


def segment(number, category, isthing):
    return {"id": number, "category_id": category, "isthing": isthing}


def test_a_thing_across_the_border_is_one_and_its_neighbour_another():
    canvas = PanopticCanvas((4, 12), torch.device("cpu"))
    canvas.add(row(1, 1, 0, 2, 2, 2, 2, 2), [segment(1, 0, False), segment(2, 5, True)], LEFT, LEFT_CORE)
    canvas.add(
        row(3, 3, 3, 3, 1, 1, 2, 2),
        [segment(1, 5, True), segment(2, 0, False), segment(3, 5, True)],
        RIGHT,
        RIGHT_CORE,
    )
    ids, segments = canvas.result()
    assert ids[0].tolist() == [1, 1, 0, 2, 2, 2, 2, 2, 3, 3, 1, 1]
    assert segments == [segment(1, 0, False), segment(2, 5, True), segment(3, 5, True)]


def test_things_that_hardly_overlap_stay_two():
    canvas = PanopticCanvas((4, 12), torch.device("cpu"))
    canvas.add(row(0, 0, 0, 0, 1, 1, 1, 1), [segment(1, 5, True)], LEFT, LEFT_CORE)
    canvas.add(row(0, 0, 0, 1, 1, 1, 1, 1), [segment(1, 5, True)], RIGHT, RIGHT_CORE)
    ids, segments = canvas.result()
    assert ids[0].tolist() == [0, 0, 0, 0, 1, 1, 0, 2, 2, 2, 2, 2]
    assert len(segments) == 2


def test_a_segment_that_no_core_shows_leaves_no_number():
    canvas = PanopticCanvas((4, 12), torch.device("cpu"))
    canvas.add(row(0, 0, 0, 0, 0, 0, 1, 1), [segment(1, 5, True)], LEFT, LEFT_CORE)
    canvas.add(row(0, 0, 0, 0, 1, 1, 1, 1), [segment(1, 7, True)], RIGHT, RIGHT_CORE)
    ids, segments = canvas.result()
    assert ids[0].tolist() == [0] * 8 + [1] * 4
    assert segments == [segment(1, 7, True)]


def test_semantic_scores_are_averaged_where_windows_overlap():
    canvas = SemanticCanvas((1, 12))
    canvas.add(torch.full((2, 1, 8), 1.0), Rectangle(0, 0, 1, 8))
    canvas.add(torch.full((2, 1, 8), 3.0), Rectangle(0, 4, 1, 12))
    assert canvas.result()[1, 0].tolist() == [1.0] * 4 + [2.0] * 4 + [3.0] * 4


def instances(masks, scores, classes):
    found = Instances(tuple(masks[0].shape))
    found.pred_masks = torch.stack([m > 0 for m in masks])
    found.scores, found.pred_classes = torch.tensor(scores), torch.tensor(classes)
    return found


def test_instances_are_united_by_class_and_overlap():
    canvas = InstanceCanvas((4, 12), max_instances=10)
    whole = row(0, 0, 0, 1, 1, 1, 1, 1)
    canvas.add(instances([whole, whole], [0.9, 0.5], [5, 6]), LEFT)
    canvas.add(instances([row(1, 1, 1, 1, 1, 0, 0, 0), row(0, 0, 0, 0, 0, 0, 1, 1)], [0.6, 0.7], [5, 5]), RIGHT)
    found = canvas.result(torch.device("cpu"))
    assert found.pred_classes.tolist() == [5, 5, 6]
    assert found.scores.tolist() == pytest.approx([0.75, 0.7, 0.5])  # two parts of equal area: (0.9 + 0.6) / 2
    assert found.pred_masks[0, 0].tolist() == [False] * 3 + [True] * 6 + [False] * 3
    assert found.pred_boxes.tensor[0].tolist() == [3, 0, 9, 4]


def test_no_instance_at_all():
    canvas = InstanceCanvas((4, 12), max_instances=10)
    empty = Instances((4, 8), pred_masks=torch.zeros(0, 4, 8, dtype=torch.bool), scores=torch.zeros(0))
    empty.pred_classes = torch.zeros(0, dtype=torch.int64)
    canvas.add(empty, LEFT)
    found = canvas.result(torch.device("cpu"))
    assert len(found) == 0 and found.pred_masks.shape == (0, 4, 12)

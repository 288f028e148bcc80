"""Objects out of paintings by place, and panoptic segmentations out of both paintings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog

from segcore.data import builtin
from segcore.data.kinds import writer
from segcore.evaluation import PROTOCOL_REGISTRY
from segcore.evaluation.panoptic_quality import panoptic_quality
from seggpt import SegGPTPredictor, add_seggpt_config
from seggpt.data.augmentation import View
from seggpt.data.colouring import fixed_colours
from seggpt.data.episodes import Source
from seggpt.data.places import CELLS, cell_of, paint_places, place_colours
from seggpt.data.queries import QueryMapper
from seggpt.evaluation.panoptic import merge, object_classes
from seggpt.evaluation.place_decoding import Objects, matrix_nms, read_places
from seggpt.modeling import SegGPTTuner
from seggpt.tuning import tuned_prompts


def test_places_by_hand():
    colours = place_colours()
    assert colours.shape == (6400, 3) and len(np.unique(colours, axis=0)) == 6400
    # Row 21, column 42: block 1 * 4 + 2 = 6, in it row 1 and column 2.
    assert colours[21 * CELLS + 42].tolist() == [255 - 15 * 6, 255 - 13, 255 - 26]
    assert colours[0].tolist() == [255, 255, 255] and colours[-1].tolist() == [30, 8, 8]
    mask = np.zeros((100, 200), bool)
    mask[40:60, 100:120] = True  # middle at row 49.5, column 109.5
    assert cell_of(mask) == int(49.5 / 100 * 79) * CELLS + int(109.5 / 200 * 79)


@pytest.fixture
def scene():
    """Three objects, two of one class, before two kinds of stuff: (labels by instance, classes)."""
    objects = np.zeros((64, 64), np.int32)
    objects[4:20, 4:24], objects[30:50, 8:20], objects[10:40, 40:60] = 1, 2, 3
    classes = np.full((64, 64), 2)
    classes[32:] = 4
    for label, number in ((1, 0), (2, 3), (3, 0)):
        classes[objects == label] = number
    return objects, classes


def test_painting_by_place_and_reading_is_the_identity(scene):
    objects, _ = scene
    noise = np.random.default_rng(0).integers(-4, 5, (64, 64, 3))
    painting = (paint_places(objects) + noise * (objects > 0)[..., None]).clip(0, 255).astype(np.uint8)
    found = read_places(painting)
    assert len(found.masks) <= 100 and (np.diff(found.scores) <= 0).all()
    best = found.masks[found.scores > 0.55]
    assert len(best) == 3  # neighbouring cells' colours give the same masks, which must not count again
    assert {mask.tobytes() for mask in best} == {(objects == n).tobytes() for n in (1, 2, 3)}


def test_an_empty_painting_has_no_object():
    found = read_places(np.zeros((16, 24, 3), np.uint8))
    assert (found.scores < 0.55).all()  # black is as near as that to the last cells' dark colours, no nearer
    found = read_places(np.full((16, 24, 3), (90, 255, 120), np.uint8))  # a colour of no cell
    assert found.masks.shape[1:] == (16, 24) and len(found.masks) == len(found.scores)


def test_matrix_nms_by_hand():
    masks = torch.zeros(3, 8, dtype=torch.bool)
    masks[0, :4], masks[1, 2:6], masks[2, 6:] = True, True, True
    kept, scores = matrix_nms(masks, torch.tensor([0.5, 0.9, 0.8]))
    # The best is 1; 2 overlaps nothing; 0 shares 2 of 6 pixels with 1.
    assert kept.tolist() == [1, 2, 0]
    assert scores.tolist() == pytest.approx([0.9, 0.8, 0.5 * np.exp(-2 * (2 / 6) ** 2)])


def test_a_mask_that_is_hidden_itself_hides_less():
    masks = torch.zeros(3, 10, dtype=torch.bool)
    masks[0, :6], masks[1, 2:8], masks[2, 4:10] = True, True, True
    _, scores = matrix_nms(masks, torch.tensor([0.9, 0.8, 0.7]))
    first, second = 4 / 8, 2 / 10  # overlaps of neighbours, of the outer two
    # The third loses to the first alone: the second, which covers as much of it, is itself covered as much.
    expected = 0.7 * min(np.exp(-2 * second**2), np.exp(-2 * (first**2 - first**2)))
    assert scores.tolist() == pytest.approx([0.9, expected, 0.8 * np.exp(-2 * first**2)])


def test_classes_of_objects_are_their_colours():
    colours = fixed_colours(5)
    painting = colours[np.array([[0, 0, 3, 3]])]
    masks = np.array([[[1, 1, 1, 0]], [[0, 0, 1, 1]]], bool)
    assert object_classes(painting, masks, colours[[0, 3]]).tolist() == [0, 1]


@pytest.mark.parametrize("size", [(64, 64), (96, 128)])
def test_perfect_paintings_give_a_perfect_answer(scene, size):
    objects, classes = scene
    colours = fixed_colours(5)
    ids, segments = merge(
        colours[classes], read_places(paint_places(objects)), colours, [0, 3], size, stuff_area=200
    )
    assert tuple(ids.shape) == size
    assert sorted((s["category_id"], s["isthing"]) for s in segments) == [
        (0, True), (0, True), (2, False), (3, True), (4, False),
    ]  # fmt: skip
    if size == (64, 64):
        truth = np.where(objects > 0, objects, 10 + classes)
        listed = [{"id": i, "category_id": c} for i, c in ((1, 0), (2, 3), (3, 0), (12, 2), (14, 4))]
        ours = [{"id": s["id"], "category_id": s["category_id"]} for s in segments]
        categories = [{"id": c, "isthing": int(c in (0, 3))} for c in (0, 2, 3, 4)]
        quality = panoptic_quality(ids.numpy(), ours, truth, listed, categories).result()
        assert quality["All"]["pq"] == pytest.approx(1) and quality["All"]["n"] == 4


def test_small_stuff_and_doubtful_objects_are_left_out(scene):
    objects, classes = scene
    colours = fixed_colours(5)
    found = read_places(paint_places(objects))
    doubtful = Objects(found.masks, found.scores * 0.5)
    ids, segments = merge(colours[classes], doubtful, colours, [0, 3], (64, 64), stuff_area=10**6)
    assert segments == [] and not ids.any()


# -- through the engine's parts ------------------------------------------------------------------------


@pytest.fixture
def few_scenes(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "SCENES", {"train": 2, "val": 2, "seen": 1})
    monkeypatch.setattr(builtin, "_chosen_root", None)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "sets"))
    add_seggpt_config(get_cfg())
    return tmp_path


def test_questions_by_instance_are_painted_by_place(few_scenes):
    view = View((64, 64), (1.0, 1.0), (1.0, 1.0), 0.0, (0, 0, 0, 0), 0.0)
    mapper = QueryMapper(sources=[Source(1.0, True, 255, 961)], view=view, by_instance=True)
    record = {**DatasetCatalog.get("kinds_panoptic_val")[0], "source": 0}
    item = mapper(record)
    colours = {tuple(c) for c in item["target"].reshape(3, -1).T.unique(dim=0).tolist()} - {(0, 0, 0)}
    assert colours and colours <= {tuple(c) for c in place_colours().tolist()}
    assert len(colours) <= sum(s["isthing"] for s in record["segments_info"])


def test_two_tuned_prompts_through_the_protocol(few_scenes, model):
    """Small random weights: that all parts fit, not that the answer is good."""
    classes = len(MetadataCatalog.get("kinds_panoptic_val").stuff_classes)
    cfg = get_cfg()
    add_seggpt_config(cfg)
    protocol = PROTOCOL_REGISTRY.get("panoptic_tuned")
    with pytest.raises(ValueError, match="SEMANTIC_PROMPT and INSTANCE_PROMPT"):
        protocol(cfg, model, "kinds_panoptic_val", None)
    for key, seg_type, colours in (
        ("SEMANTIC_PROMPT", 0, fixed_colours(classes)),
        ("INSTANCE_PROMPT", 1, np.zeros((0, 3), np.uint8)),
    ):
        tuner = SegGPTTuner(model=model, seg_type=seg_type)
        path = few_scenes / f"{key}.safetensors"
        tuned_prompts(tuner, colours).save(path)
        cfg.TEST.PANOPTIC[key] = str(path)
    found = protocol(cfg, model, "kinds_panoptic_val", None)
    assert 0 <= found["panoptic_seg"]["PQ"] <= 100
    by_place = SegGPTPredictor(model=model).load_prompts(cfg.TEST.PANOPTIC.INSTANCE_PROMPT)
    with pytest.raises(ValueError, match="paint objects by their place"):
        SegGPTPredictor(model=model)(np.zeros((20, 20, 3), np.uint8), by_place)

"""Post-processing against the official goldens, and against hand-worked cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from oneformer.modeling.postprocess import (
    MaskResizer,
    instance_segmentation,
    panoptic_segmentation,
    semantic_segmentation,
)
from tests.oneformer.modeling.golden import Golden


def identity(masks):
    return masks.clone()


@pytest.fixture(params=["ade20k", "coco"])
def official(request, spec_dir):
    golden = Golden(spec_dir / "oneformer" / "golden" / f"post_{request.param}.npz")
    metadata_file = spec_dir / "oneformer" / "golden" / "dataset_metadata.json"
    import json

    name = {"ade20k": "ade20k_panoptic_train", "coco": "coco_2017_train_panoptic_with_sem_seg"}[request.param]
    things = json.loads(metadata_file.read_text())[name]["thing_dataset_id_to_contiguous_id"].values()
    resize = MaskResizer(*(tuple(golden[k].tolist()) for k in ("padded", "image_size", "out_size")))
    tensors = torch.from_numpy(golden["mask_cls"]), torch.from_numpy(golden["mask_pred"])
    return request.param, golden, tensors, resize, sorted(things)


def test_semantic_golden(official):
    _, golden, tensors, resize, _ = official
    scores = semantic_segmentation(*tensors, resize)
    np.testing.assert_array_equal(scores.argmax(0).numpy(), golden["sem_seg_argmax"])
    step = scores.shape[1] // golden["sem_seg_sub"].shape[1]
    np.testing.assert_allclose(scores[:, ::step, ::step].numpy(), golden["sem_seg_sub"], atol=2e-5)


@pytest.mark.parametrize("kind", ["default", "loose"])
def test_panoptic_golden(official, kind):
    _, golden, tensors, resize, things = official
    object_threshold, overlap_threshold, _ = golden["thresholds"].tolist()
    if kind == "loose":
        object_threshold, overlap_threshold = 0.3, 0.2
    ids, segments = panoptic_segmentation(
        *tensors,
        resize,
        thing_classes=things,
        object_threshold=object_threshold,
        overlap_threshold=overlap_threshold,
    )
    assert segments == golden.json(f"panoptic_{kind}_info")
    np.testing.assert_array_equal(ids.numpy(), golden[f"panoptic_{kind}_seg"])


@pytest.mark.parametrize("kind", ["task_instance", "task_panoptic", "demo_task_instance", "detection_on"])
def test_instance_golden(official, kind):
    dataset, golden, tensors, resize, things = official
    if f"inst_{kind}_scores" not in golden:
        pytest.skip(f"the {dataset} golden has no {kind}")
    object_threshold, _, top_k = golden["thresholds"].tolist()
    demo = kind.startswith("demo")
    # the official code renumbers ADE20K's things when the task is "instance" and it is no demo
    renumber = dataset == "ade20k" and kind in ("task_instance", "detection_on")
    result = instance_segmentation(
        *tensors,
        resize,
        max_instances=int(top_k),
        thing_classes=things,
        class_map={c: i for i, c in enumerate(things)} if renumber else None,
        score_threshold=object_threshold if demo else None,
    )
    scores = result.scores.numpy()
    np.testing.assert_allclose(scores, golden[f"inst_{kind}_scores"], atol=1e-6)
    areas = result.pred_masks.flatten(1).sum(1).numpy()
    boxes = result.pred_boxes.tensor.numpy()
    ours = sorted(zip(scores.round(5).tolist(), result.pred_classes.tolist(), areas.tolist(), strict=True))
    theirs = sorted(
        zip(
            golden[f"inst_{kind}_scores"].round(5).tolist(),
            golden[f"inst_{kind}_classes"].tolist(),
            golden[f"inst_{kind}_area"].tolist(),
            strict=True,
        )
    )
    assert [o[1:] for o in ours] == [t[1:] for t in theirs]
    if kind == "detection_on":
        np.testing.assert_array_equal(boxes, golden[f"inst_{kind}_boxes"])


def _logits(probs):
    return torch.tensor(probs).log()


def test_panoptic_by_hand():
    """Two car queries stay apart, two sky queries become one segment, an unsure query is dropped."""
    car, sky, unsure = [0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.4, 0.3, 0.3]
    classes = _logits([car, sky, car, sky, unsure])
    on, off = 9.0, -9.0
    masks = torch.full((5, 1, 5), off)
    for query, column in enumerate((0, 1, 2, 3)):
        masks[query, 0, column] = on
    masks[4] = on
    ids, segments = panoptic_segmentation(
        classes, masks, identity, thing_classes=[0], object_threshold=0.5, overlap_threshold=0.8
    )
    assert ids.tolist() == [[1, 2, 3, 2, 0]]
    found = [(s["id"], s["isthing"], s["category_id"]) for s in segments]
    assert found == [(1, True, 0), (2, False, 1), (3, True, 0)]


def test_panoptic_drops_the_overlapped():
    """A query that wins less than the threshold of its own area vanishes; its pixels stay unassigned."""
    classes = _logits([[0.95, 0.05], [0.9, 0.1]])
    masks = torch.tensor([[[9.0, 9.0, 9.0, -9.0]], [[9.0, 9.0, 9.0, 9.0]]])
    ids, segments = panoptic_segmentation(
        classes, masks, identity, thing_classes=[0], object_threshold=0.5, overlap_threshold=0.8
    )
    assert ids.tolist() == [[1, 1, 1, 0]]
    assert len(segments) == 1


@pytest.mark.parametrize("queries", [1, 3])
def test_nothing_found(queries):
    classes = _logits([[0.1, 0.9]] * queries)
    masks = torch.ones(queries, 2, 2)
    resize = MaskResizer((8, 8), (7, 5), (70, 1))
    ids, segments = panoptic_segmentation(
        classes, masks, resize, thing_classes=[0], object_threshold=0.5, overlap_threshold=0.8
    )
    assert segments == [] and ids.shape == (70, 1) and not ids.any()
    found = instance_segmentation(classes, masks, resize, max_instances=100, thing_classes=[])
    assert len(found) == 0 and found.pred_masks.shape == (0, 70, 1)


def test_instances_by_hand():
    """More pairs asked for than exist; the mask score multiplies the class score; boxes are tight."""
    classes = _logits([[0.6, 0.2, 0.2], [0.1, 0.5, 0.4]])
    masks = torch.full((2, 3, 4), -2.0)
    masks[0, 1, 1:3] = 3.0
    masks[1, :, 0] = 1.0
    found = instance_segmentation(classes, masks, identity, max_instances=100, thing_classes=None)
    sigmoid = torch.tensor([3.0, 1.0]).sigmoid()
    expected = sorted([0.6 * sigmoid[0], 0.2 * sigmoid[0], 0.1 * sigmoid[1], 0.5 * sigmoid[1]], reverse=True)
    torch.testing.assert_close(found.scores, torch.stack(expected))
    assert found.pred_classes[0] == 0 and found.pred_boxes.tensor[0].tolist() == [1, 1, 3, 2]


def test_semantic_is_the_same_in_chunks(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    classes = torch.randn(70, 6, generator=generator)
    masks = torch.randn(70, 5, 7, generator=generator)
    whole = torch.einsum("qk,qhw->khw", classes.softmax(-1)[:, :-1], masks.sigmoid())
    torch.testing.assert_close(semantic_segmentation(classes, masks, identity), whole)

"""Post-processing against the official goldens, and against hand-worked cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.utils._python_dispatch
from detectron2.structures import BitMasks

from oneformer.modeling import postprocess
from oneformer.modeling.mask_resize import MaskResizer
from oneformer.modeling.postprocess import (
    instance_segmentation,
    panoptic_segmentation,
    semantic_labels,
    semantic_segmentation,
)
from tests.oneformer.modeling import straightforward
from tests.oneformer.modeling.golden import Golden


def identity(masks):
    size = tuple(masks.shape[1:])
    return MaskResizer(size, size, size)


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
    np.testing.assert_array_equal(semantic_labels(*tensors, resize).numpy(), golden["sem_seg_argmax"])
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
        classes, masks, identity(masks), thing_classes=[0], object_threshold=0.5, overlap_threshold=0.8
    )
    assert ids.tolist() == [[1, 2, 3, 2, 0]]
    found = [(s["id"], s["isthing"], s["category_id"]) for s in segments]
    assert found == [(1, True, 0), (2, False, 1), (3, True, 0)]


def test_panoptic_drops_the_overlapped():
    """A query that wins less than the threshold of its own area vanishes; its pixels stay unassigned."""
    classes = _logits([[0.95, 0.05], [0.9, 0.1]])
    masks = torch.tensor([[[9.0, 9.0, 9.0, -9.0]], [[9.0, 9.0, 9.0, 9.0]]])
    ids, segments = panoptic_segmentation(
        classes, masks, identity(masks), thing_classes=[0], object_threshold=0.5, overlap_threshold=0.8
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
    found = instance_segmentation(classes, masks, identity(masks), max_instances=100, thing_classes=None)
    sigmoid = torch.tensor([3.0, 1.0]).sigmoid()
    expected = sorted([0.6 * sigmoid[0], 0.2 * sigmoid[0], 0.1 * sigmoid[1], 0.5 * sigmoid[1]], reverse=True)
    torch.testing.assert_close(found.scores, torch.stack(expected))
    assert found.pred_classes[0] == 0 and found.pred_boxes.tensor[0].tolist() == [1, 1, 3, 2]


def test_semantic_is_the_same_in_chunks(monkeypatch):
    monkeypatch.setattr(postprocess, "BYTES_AT_ONCE", 1)
    generator = torch.Generator().manual_seed(0)
    classes = torch.randn(70, 6, generator=generator)
    masks = torch.randn(70, 5, 7, generator=generator)
    whole = torch.einsum("qk,qhw->khw", classes.softmax(-1)[:, :-1], masks.sigmoid())
    torch.testing.assert_close(semantic_segmentation(classes, masks, identity(masks)), whole)


SIZES = [   # padded, image and output size of mask logits (24, 32)
    ((96, 128), (96, 128), (96, 128)),
    ((96, 128), (90, 121), (90, 121)),
    ((96, 128), (75, 111), (150, 200)),
    ((96, 128), (75, 111), (37, 301)),
    ((24, 32), (24, 32), (24, 32)),
    ((96, 128), (96, 128), (1, 1)),
]


@pytest.mark.parametrize("sizes", SIZES)
def test_windows_are_cut_out_of_the_whole(sizes):
    """To the bit where F.interpolate fuses multiply and add, as on every x86 and ARM machine of today."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.randn(3, 24, 32, generator=generator) * 10
    resize = MaskResizer(*sizes)
    whole, (height, width) = resize(masks), sizes[2]
    columns = torch.arange(0, width, 3)
    bounds = resize.bounds(masks)
    tile = 16
    for top in range(0, height, tile):
        rows = slice(top, min(top + tile, height))
        for chosen in (slice(0, width), columns):
            window = resize.window(masks, rows, chosen)
            torch.testing.assert_close(window, whole[:, rows][:, :, chosen], rtol=1e-6, atol=1e-5)
        for left in range(0, width, tile):
            part = whole[:, rows, left : left + tile].flatten(1)
            i, j = top // tile, left // tile
            assert (bounds.least[:, i, j] <= part.amin(1)).all() and (part.amax(1) <= bounds.greatest[:, i, j]).all()


@pytest.mark.parametrize("bytes_at_once", [1 << 24, 1 << 14])
@pytest.mark.parametrize("kind", ["scene", "noise"])
@pytest.mark.parametrize("sizes", SIZES)
def test_results_equal_the_straightforward_form(sizes, kind, bytes_at_once, monkeypatch):
    monkeypatch.setattr(postprocess, "BYTES_AT_ONCE", bytes_at_once)
    classes, masks = straightforward.scene(40, 12, (24, 32), seed=1)
    if kind == "noise":   # nothing can be decided by bounds
        generator = torch.Generator().manual_seed(2)
        classes, masks = torch.randn(40, 13, generator=generator) * 4, torch.randn(40, 24, 32, generator=generator)
    resize, things = MaskResizer(*sizes), {0, 2, 3, 5, 7, 11}
    differs = semantic_labels(classes, masks, resize) != straightforward.semantic_labels(classes, masks, resize)
    top = semantic_segmentation(classes, masks, resize).topk(2, dim=0).values
    assert (top[0] - top[1])[differs].lt(1e-5).all() and differs.float().mean() < 1e-3   # ties of rounding

    settings = {"thing_classes": things, "object_threshold": 0.4, "overlap_threshold": 0.3}
    ids, segments = panoptic_segmentation(classes, masks, resize, **settings)
    expected, expected_segments = straightforward.panoptic_segmentation(classes, masks, resize, **settings)
    assert segments == expected_segments
    torch.testing.assert_close(ids, expected, rtol=0, atol=0)

    settings = {"thing_classes": things, "max_instances": 60}
    found = instance_segmentation(classes, masks, resize, **settings)
    expected = straightforward.instance_segmentation(classes, masks, resize, **settings)
    torch.testing.assert_close(found.scores, expected.scores)
    assert torch.equal(found.pred_classes, expected.pred_classes)
    assert torch.equal(found.pred_masks, expected.pred_masks)
    assert torch.equal(found.pred_boxes.tensor, BitMasks(expected.pred_masks).get_bounding_boxes().tensor)

    half = 0.5 * float(expected.scores.max())
    some = instance_segmentation(classes, masks, resize, **settings, least_score=half)
    assert torch.equal(some.pred_masks, found.pred_masks[found.scores >= half])
    assert half == 0 or 0 < len(some) < len(found)


def test_the_scene_has_something_to_find():
    classes, masks = straightforward.scene(40, 12, (24, 32), seed=1)
    _, segments = panoptic_segmentation(
        classes, masks, MaskResizer((96, 128), (96, 128), (96, 128)),
        thing_classes={0, 2, 3, 5, 7, 11}, object_threshold=0.4, overlap_threshold=0.3,
    )
    assert len(segments) > 5 and len({s["isthing"] for s in segments}) == 2


def test_memory_does_not_grow_with_the_number_of_masks():
    """150 masks of a megapixel would take 600 MB each time; pieces of them stay under the setting."""
    classes, masks = straightforward.scene(150, 10, (64, 64))
    resize, largest = MaskResizer((256, 256), (256, 256), (1000, 1000)), []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            largest.extend(x.numel() * x.element_size() for x in (out,) if isinstance(x, torch.Tensor))
            return out

    with Watch():
        semantic_labels(classes, masks, resize)
        panoptic_segmentation(
            classes, masks, resize, thing_classes=[0], object_threshold=0.5, overlap_threshold=0.8
        )
    assert max(largest) <= 2 * postprocess.BYTES_AT_ONCE

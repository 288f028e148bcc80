"""One's own data: every kind of label against the scene it was drawn from; bad labels; the classes of a mix."""

from __future__ import annotations

import json
import logging
import uuid

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances
from PIL import Image

from segcore.data import register_custom, register_instances, register_panoptic, register_semantic
from segcore.data.class_list import read_categories
from segcore.data.label_space import class_places, label_tasks, speaking_of, unite_classes
from segcore.data.layers import Instance, read_layers, stack_instances
from segcore.data.training_set import load_training_set
from segcore.evaluation import build_evaluator
from tests.segcore.data import samples

SIZE = (samples.HEIGHT, samples.WIDTH)


@pytest.fixture
def name():
    return f"custom_{uuid.uuid4().hex}"


def masks_of(layers) -> list[tuple[int, np.ndarray]]:
    """(class index, mask) of every segment of every layer that has a pixel."""
    found = [
        (segment["category_id"], layer.indices == number)
        for layer in layers
        for number, segment in enumerate(layer.segments, start=1)
    ]
    return [(category, mask) for category, mask in found if mask.any()]


# ---------------------------------------------------------------- each kind of label


def test_label_pngs(name, tmp_path):
    register_semantic(name, **samples.write_semantic(tmp_path, 3))
    record = DatasetCatalog.get(name)[2]
    assert (record["image_id"], record["height"], record["width"]) == ("02", *SIZE)
    (layer,) = read_layers(record, SIZE)
    assert (layer.indices == samples.labels(2) + 1).all()
    assert MetadataCatalog.get(name).stuff_classes == samples.CLASSES
    assert label_tasks(name) == ("semantic",)


def test_label_values_may_be_any_and_names_may_have_suffixes(name, tmp_path):
    samples.write_images(tmp_path / "images" / "town", 1, suffix="_photo")
    (tmp_path / "labels" / "town").mkdir(parents=True)
    values = np.array([7, 300, 21], np.uint16)[samples.labels(0)]
    values[0] = 9
    Image.fromarray(values).save(tmp_path / "labels" / "town" / "00_ids.png")
    register_semantic(
        name,
        image_root=str(tmp_path / "images"),
        label_root=str(tmp_path / "labels"),
        classes={300: "grass", 21: "ball", 7: "sky"},
        ignore=[9, 255],
        image_suffix="_photo",
        label_suffix="_ids",
    )
    (record,) = DatasetCatalog.get(name)
    (layer,) = read_layers(record, SIZE)
    expected = np.array([3, 1, 2])[samples.labels(0)]
    expected[0] = 0
    assert record["image_id"] == "town/00" and (layer.indices == expected).all()


@pytest.mark.parametrize("write", [samples.write_masks, samples.write_id_pictures])
def test_masks(name, tmp_path, write):
    register_instances(name, **write(tmp_path, 2))
    found = masks_of(read_layers(DatasetCatalog.get(name)[1], SIZE))
    assert [category for category, _ in found] == [0, 0]
    assert all((mask == ball).all() for (_, mask), ball in zip(found, samples.balls(1)))


def test_masks_of_several_classes(name, tmp_path):
    samples.write_images(tmp_path / "images", 2)
    for kind in ("box", "ball"):
        (tmp_path / "masks" / kind / "00").mkdir(parents=True)
        Image.fromarray(samples.balls(0)[kind == "ball"].astype(np.uint8)).save(
            tmp_path / "masks" / kind / "00" / "a.png"
        )
    roots = {"image_root": str(tmp_path / "images"), "mask_root": str(tmp_path / "masks")}
    register_instances(name, **roots, classes=["box", "ball"])
    first, second = DatasetCatalog.get(name)
    assert [category for category, _ in masks_of(read_layers(first, SIZE))] == [0, 1]
    assert masks_of(read_layers(second, SIZE)) == []  # an image that shows none
    with pytest.raises(ValueError, match="has no {class}"):
        register_instances(name + "b", **roots, classes=["box", "ball"], mask_pattern="{stem}/*.png")


def test_coco_annotations(name, tmp_path):
    register_instances(name, **samples.write_instance_json(tmp_path, 3), rename={"box": "crate"})
    found = masks_of(read_layers(DatasetCatalog.get(name)[0], SIZE))
    square = np.zeros(SIZE, bool)
    square[4:12, 4:12] = True
    assert MetadataCatalog.get(name).stuff_classes == ["crate", "ball"]
    by_class = dict(found)
    assert (by_class[0] == square).all() and (by_class[1] == samples.balls(0)[1]).all()


def test_overlapping_instances_lose_no_pixel():
    rng = np.random.default_rng(0)
    masks = [rng.random((9, 11)) < 0.4 for _ in range(300)]
    layers = stack_instances([Instance(mask, i, 0) for i, mask in enumerate(masks)], (9, 11))
    found = dict(masks_of(layers))
    assert all((found[i] == mask).all() for i, mask in enumerate(masks))
    apart = [np.eye(1, 400, i, dtype=bool).reshape(20, 20) for i in range(400)]
    (layer,) = stack_instances([Instance(mask, 0, 0) for mask in apart], (20, 20))
    assert layer.indices.dtype == np.uint16 and len(layer.segments) == 400


def test_the_things_of_a_panoptic_folder(name, tmp_path):
    folder = samples.write_panoptic(tmp_path, 2)
    register_instances(name, **folder)
    (layer,) = read_layers(DatasetCatalog.get(name)[0], SIZE)
    things = [mask for category, mask in masks_of([layer]) if category >= 0]
    assert all((mask == ball).all() for mask, ball in zip(things, samples.balls(0), strict=True))
    assert MetadataCatalog.get(name).stuff_classes == ["ball"] and label_tasks(name) == ("instance",)


# ---------------------------------------------------------------- from a config


def test_specs_of_a_config(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    samples.write_semantic(tmp_path / "s", 1)
    (tmp_path / "names.txt").write_text("\n".join(samples.CLASSES) + "\n")
    spec = {"name": name, "kind": "semantic", "image_root": "s/images", "label_root": "s/labels"}
    register_custom([{**spec, "classes": "names.txt"}])
    register_custom([{**spec, "classes": "names.txt"}])  # again: harmless
    assert len(DatasetCatalog.get(name)) == 1
    with pytest.raises(ValueError, match="registered already"):
        register_custom([{**spec, "classes": ["a", "b", "c"]}])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "semantic"}, "expected name"),
        ({"name": "x"}, "kind is None; expected one of panoptic, semantic, instances"),
        ({"name": "x", "kind": "semantic", "image_rot": "a"}, "did you mean image_root"),
        ({"name": "x", "kind": "semantic", "image_root": "a", "classes": ["a"]}, "has no label_root"),
        ({"name": "x", "kind": "instances", "image_root": "a"}, "give one of json_file"),
        ({"name": "x", "kind": "instances", "image_root": "a", "mask_root": "b"}, "give classes"),
        ({"name": "x", "kind": "semantic", "image_root": "a", "label_root": "b", "classes": []}, "lists no class"),
        (
            {"name": "x", "kind": "semantic", "image_root": "a", "label_root": "b", "classes": ["a"], "ignore": 0},
            "is a class and under ignore",
        ),
    ],
)
def test_wrong_specs(spec, message):
    with pytest.raises(ValueError, match=message):
        register_custom([spec])


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["a", "a"], "name 'a' more than once"),
        ([{"id": 1, "name": "a"}, {"id": 1, "name": "b"}], "id 1 more than once"),
        ([{"nam": "a"}], "is no class"),
        ({"x": "a"}, "number of class 'a' is 'x'"),
    ],
)
def test_wrong_class_lists(classes, message):
    with pytest.raises(ValueError, match=message):
        read_categories(classes, isthing=0)


# ---------------------------------------------------------------- bad labels


def two_points(content):
    content["annotations"][0]["segmentation"] = [[1, 1, 5, 5]]


def other_size(content):
    content["annotations"][1]["segmentation"]["size"] = [10, 10]


def unknown_category(content):
    content["annotations"][0]["category_id"] = 99


def only_a_box(content):
    del content["annotations"][0]["segmentation"]


def outside(content):
    content["annotations"][0]["segmentation"] = [[200, 200, 210, 200, 210, 210]]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (two_points, r"annotation 1 of .*00\.png has a polygon of 4 numbers"),
        (other_size, r"annotation 2 of .*00\.png has an RLE of size \[10, 10\]"),
        (unknown_category, r"annotation 1 of 00\.png has category 99"),
        (only_a_box, r"annotation 1 of 00\.png has no segmentation"),
        (outside, r"annotation 1 of .*00\.png covers no pixel"),
    ],
)
def test_bad_annotations_stop_or_are_skipped(name, tmp_path, caplog, spoil, message):
    roots = samples.write_instance_json(tmp_path, 3)
    content = json.loads((tmp_path / "instances.json").read_text())
    spoil(content)
    (tmp_path / "instances.json").write_text(json.dumps(content))
    register_instances(name, **roots)
    assert_stopped_or_skipped(name, message, caplog)


def sixteen_bits(path):
    Image.fromarray(np.asarray(Image.open(path)).astype(np.uint16) + 1000).save(path)


def colours(path):
    Image.open(path).convert("RGB").save(path)


def smaller(path):
    Image.open(path).resize((10, 10)).save(path)


def all_void(path):
    Image.fromarray(np.full(SIZE, 255, np.uint8)).save(path)


def half(path):
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (sixteen_bits, r"00\.png has the label values \[1000, 1001, 1002\], which are no class \(those are 0 to 2\)"),
        (colours, r"00\.png is a picture of mode RGB"),
        (smaller, r"00\.png is 10x10"),
        (all_void, r"00\.png labels no pixel"),
        (half, r"cannot read the label PNG .*00\.png"),
        (lambda path: path.unlink(), r"image .*00\.png has no label"),
    ],
)
def test_bad_label_pngs_stop_or_are_skipped(name, tmp_path, caplog, spoil, message):
    roots = samples.write_semantic(tmp_path, 3)
    spoil(tmp_path / "labels" / "00.png")
    register_semantic(name, **roots)
    assert_stopped_or_skipped(name, message, caplog)


def empty_mask(root):
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(root / "masks" / "00" / "0.png")


def small_mask(root):
    Image.fromarray(np.ones((5, 5), np.uint8)).save(root / "masks" / "00" / "0.png")


def broken_image(root):
    (root / "images" / "00.png").write_bytes(b"no picture")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (empty_mask, r"the mask .*0\.png has no pixel"),
        (small_mask, r"00/0\.png is 5x5"),
        (broken_image, r"cannot read the image .*00\.png"),
    ],
)
def test_bad_masks_stop_or_are_skipped(name, tmp_path, caplog, spoil, message):
    roots = samples.write_masks(tmp_path, 3)
    spoil(tmp_path)
    register_instances(name, **roots)
    assert_stopped_or_skipped(name, message, caplog)


def unknown_ids(root, content):
    content["annotations"][0]["segments_info"].pop()


def foreign_category(root, content):
    content["annotations"][0]["segments_info"][0]["category_id"] = 99


def no_png(root, content):
    (root / "panoptic" / "00.png").unlink()


def void(root, content):
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(root / "panoptic" / "00.png")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (unknown_ids, r"00\.png has pixels of 1 segment ids that its annotation does not list"),
        (foreign_category, r"segment 1 of 00\.png has category 99"),
        (no_png, r"names .*00\.png, which does not exist"),
        (void, r"00\.png is void everywhere"),
    ],
)
def test_bad_panoptic_labels_stop_or_are_skipped(name, tmp_path, caplog, spoil, message):
    roots = samples.write_panoptic(tmp_path, 3)
    content = json.loads((tmp_path / "panoptic.json").read_text())
    spoil(tmp_path, content)
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    register_panoptic(name, **roots)
    assert_stopped_or_skipped(name, message, caplog)


def assert_stopped_or_skipped(name, message, caplog):
    with pytest.raises(ValueError, match=r"1 of the 3 images of " + name + r"(?s:.*)" + message):
        load_training_set([name], check="stop")
    with caplog.at_level(logging.INFO):
        items, _ = load_training_set([name], check="skip")
    assert [str(item["image_id"])[-1] for item in items] == ["1", "2"]
    assert "2 of 3 images have good labels, 1 are left out" in caplog.text


# ---------------------------------------------------------------- the classes of a mix


@pytest.fixture
def mix(tmp_path, name):
    register_panoptic(name + "p", **samples.write_panoptic(tmp_path / "p", 2))
    semantic = {**samples.write_semantic(tmp_path / "s", 3), "classes": ["Sky", "road", "Ball "]}
    register_semantic(name + "s", **semantic)
    register_instances(name + "i", **samples.write_instance_json(tmp_path / "i", 1))
    return [name + letter for letter in "psi"]


def test_classes_are_united_by_name(mix):
    run = unite_classes(mix)
    metadata = MetadataCatalog.get(run)
    assert metadata.stuff_classes == ["sky", "grass", "ball", "road", "box"]
    # ball is a thing in two sets, label PNGs say nothing; road is a label PNG's alone
    assert sorted(metadata.thing_dataset_id_to_contiguous_id.values()) == [2, 4]
    assert [class_places(name, run) for name in mix] == [[0, 1, 2], [0, 3, 2], [4, 2]]
    assert unite_classes(mix) == run and unite_classes(mix[:1]) != run
    with pytest.raises(ValueError, match="has the class 'road', which none of the training sets has"):
        class_places(mix[1], unite_classes(mix[:1]))


def test_a_thing_here_and_stuff_there(mix, tmp_path, name):
    register_instances(name + "x", **samples.write_masks(tmp_path / "m", 1), rename={"ball": "grass"})
    with pytest.raises(ValueError, match=r"class 'grass' is a thing in .*x and stuff in .*p; call it differently"):
        unite_classes([mix[0], name + "x"])


def test_items_of_a_mix_are_in_the_classes_of_the_run(mix):
    items, sources = load_training_set(mix, unite_classes(mix))
    assert sources == [0, 0, 1, 1, 1, 2]
    assert "tasks" not in items[0] and items[2]["tasks"] == ("semantic",) and items[5]["tasks"] == ("instance",)
    assert sorted({category for category, _ in masks_of(read_layers(items[2], SIZE))}) == [0, 2, 3]
    assert [category for category, _ in masks_of(read_layers(items[5], SIZE))] == [4, 2]


def test_results_are_translated_to_the_classes_of_a_set(mix):
    class Model(torch.nn.Module):
        def forward(self, inputs):
            scores = torch.arange(5.0)[:, None, None].expand(5, 2, 3)
            ids = torch.tensor([[1, 2, 3], [1, 2, 0]], dtype=torch.int32)
            segments = [{"id": n + 1, "isthing": c in (2, 4), "category_id": c} for n, c in enumerate((2, 4, 3))]
            found = Instances((2, 3), pred_classes=torch.tensor([2, 3, 4]), scores=torch.tensor([0.9, 0.8, 0.7]))
            return [{"sem_seg": scores, "panoptic_seg": (ids, segments), "instances": found}]

    run = unite_classes(mix)
    (output,) = speaking_of(Model(), mix[2], run)([{}])
    assert output["sem_seg"][:, 0, 0].tolist() == [4.0, 2.0]
    ids, segments = output["panoptic_seg"]
    assert ids.tolist() == [[1, 2, 0], [1, 2, 0]]
    assert segments == [
        {"id": 1, "isthing": True, "category_id": 1},
        {"id": 2, "isthing": True, "category_id": 0},
    ]
    assert output["instances"].pred_classes.tolist() == [1, 0]
    assert output["instances"].scores.tolist() == pytest.approx([0.9, 0.7])
    assert isinstance(speaking_of(Model(), mix[0], unite_classes(mix[:1])), Model)


# ---------------------------------------------------------------- evaluation


@pytest.mark.parametrize(
    "write", [samples.write_masks, samples.write_id_pictures, samples.write_instance_json, samples.write_panoptic]
)
def test_the_ground_truth_as_prediction_has_ap_100(name, tmp_path, write):
    register_instances(name, **write(tmp_path, 2))
    evaluator = build_evaluator(name, ["instance"], distributed=False)
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        found = [(c, m) for c, m in masks_of(read_layers(record, SIZE)) if c >= 0]
        output = Instances(SIZE, scores=torch.ones(len(found)))
        output.pred_masks = torch.from_numpy(np.stack([mask for _, mask in found]))
        output.pred_classes = torch.tensor([category for category, _ in found])
        evaluator.process([record], [{"instances": output}])
    assert evaluator.evaluate()["segm"]["AP"] == pytest.approx(100)


def test_the_ground_truth_as_prediction_has_miou_100(name, tmp_path):
    roots = samples.write_semantic(tmp_path, 2)
    for path in (tmp_path / "labels").iterdir():
        values = np.array([5, 6, 8], np.uint8)[np.asarray(Image.open(path))]
        values[0, :5] = 99
        Image.fromarray(values).save(path)
    register_semantic(name, **{**roots, "classes": {8: "ball", 5: "sky", 6: "grass"}, "ignore": 99})
    evaluator = build_evaluator(name, ["semantic"], distributed=False)
    evaluator.reset()
    for number, record in enumerate(DatasetCatalog.get(name)):
        predicted = torch.from_numpy(np.array([1, 2, 0])[samples.labels(number)])
        evaluator.process([record], [{"sem_seg": predicted}])
    assert evaluator.evaluate()["sem_seg"]["mIoU"] == pytest.approx(100)

"""Result files: read back by the tools of their formats, they say what was predicted."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from segcore.data.images import read_panoptic_ids
from segcore.data.panoptic_folder import PanopticFolder, load_panoptic_folder
from segcore.predictions import Classes, InstanceResult, Prediction
from segcore.results import ResultWriter, write_label_png, write_picture
from tests.pictures import CLASSES, IDS, photograph, prediction


@pytest.fixture
def written(tmp_path):
    """Two pictures' results, and the folder of the photographs."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, repeat in (("a", 1), ("b", 3)):
        Image.fromarray(photograph(4 * repeat, 6 * repeat)).save(photos / f"{name}.png")
    with ResultWriter(tmp_path / "out", CLASSES) as writer:
        writer.add("a", "a.png", prediction())
        writer.add("b", "b.png", prediction(repeat=3))
    return tmp_path


def test_panoptic_reads_back_as_a_data_set(written):
    out = written / "out"
    np.testing.assert_array_equal(
        read_panoptic_ids(out / "panoptic" / "a.png"), IDS
    )  # id 300 needs two bytes
    folder = PanopticFolder(str(written / "photos"), str(out / "panoptic"), str(out / "panoptic.json"))
    records = load_panoptic_folder(folder, {10: 0, 20: 1, 30: 2}, {1})
    assert [(r["height"], r["width"]) for r in records] == [(4, 6), (12, 18)]
    found = {s["id"]: (s["category_id"], s["area"], tuple(s["bbox"])) for s in records[0]["segments_info"]}
    assert found == {
        1: (0, 7, (1, 0, 5, 2)),
        2: (2, 7, (1, 2, 5, 2)),
        7: (1, 4, (1, 1, 2, 2)),
        300: (1, 2, (4, 1, 1, 2)),
    }
    document = json.loads((out / "panoptic.json").read_text())
    assert document["categories"][1] == {"id": 20, "name": "car", "isthing": 1, "color": [128, 0, 128]}


def test_instances_read_back_with_pycocotools(written, capsys):
    coco = COCO(str(written / "out" / "instances.json"))
    assert coco.loadCats(coco.getCatIds()) == [
        {"id": 20, "name": "car", "isthing": 1, "color": [128, 0, 128]}
    ]
    found = coco.loadAnns(coco.getAnnIds(imgIds=[1]))
    assert [a["score"] for a in found] == pytest.approx([0.9, 0.6])
    assert [a["bbox"] for a in found] == [[1, 1, 2, 2], [4, 1, 1, 2]]
    for annotation, id_ in zip(found, (7, 300)):
        np.testing.assert_array_equal(coco.annToMask(annotation), id_ == IDS)
        assert annotation["area"] == (id_ == IDS).sum()
    assert len(coco.getAnnIds(imgIds=[2])) == 2
    # The annotations alone are COCO's format of results.
    assert (
        len(coco.loadRes(json.loads((written / "out" / "instances.json").read_text())["annotations"]).anns)
        == 4
    )


def test_semantic_png_is_indices_with_a_palette(written):
    out = written / "out"
    with Image.open(out / "semantic" / "b.png") as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture), prediction(repeat=3).semantic.labels)
        assert np.asarray(picture.convert("RGB"))[-1, -1].tolist() == [128, 64, 0]
    document = json.loads((out / "semantic.json").read_text())
    assert [c["name"] for c in document["classes"]] == ["sky", "car", "road"]
    assert document["annotations"][1]["shares"] == pytest.approx(
        {"sky": 12 / 24, "car": 6 / 24, "road": 6 / 24}, abs=0.1
    )


def test_a_run_that_breaks_lists_what_was_finished(tmp_path):
    with pytest.raises(RuntimeError, match="power cut"), ResultWriter(tmp_path, CLASSES) as writer:
        writer.add("a", "a.jpg", prediction())
        raise RuntimeError("power cut")
    assert [
        image["file_name"] for image in json.loads((tmp_path / "panoptic.json").read_text())["images"]
    ] == ["a.jpg"]
    assert not [p for p in tmp_path.rglob("*") if ".tmp" in p.name or ".part" in p.name]


def test_a_run_without_results_writes_nothing(tmp_path):
    with ResultWriter(tmp_path / "out", CLASSES):
        pass
    assert not (tmp_path / "out").exists()


def test_only_the_asked_task_is_written(tmp_path):
    whole = prediction()
    with ResultWriter(tmp_path, CLASSES) as writer:
        writer.add("a", "a.jpg", Prediction(whole.size, CLASSES, semantic=whole.semantic))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["semantic", "semantic.json"]


def test_no_objects(tmp_path):
    none = InstanceResult(
        np.zeros((0, 4, 6), bool),
        np.zeros((0, 4), np.float32),
        np.zeros(0, np.float32),
        np.zeros(0, np.int64),
        [],
    )
    with ResultWriter(tmp_path, CLASSES) as writer:
        writer.add("a", "a.jpg", Prediction((4, 6), CLASSES, instance=none))
    assert json.loads((tmp_path / "instances.json").read_text())["annotations"] == []


def test_a_name_is_used_once(tmp_path):
    with ResultWriter(tmp_path, CLASSES) as writer:
        writer.add("a", "x/a.jpg", prediction())
        with pytest.raises(ValueError, match="'a' is taken"):
            writer.add("a", "y/a.jpg", prediction())


def test_too_many_classes_for_a_palette(tmp_path):
    many = Classes(("c",) * 257, ((0, 0, 0),) * 257, frozenset(), tuple(range(257)))
    with pytest.raises(ValueError, match="holds 256 classes, the model has 257"):
        write_label_png(tmp_path / "a.png", np.zeros((2, 2), np.int32), many)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_pictures(tmp_path, name):
    image = np.full((10, 20, 3), (200, 30, 90), np.uint8)
    write_picture(tmp_path / name, image)
    with Image.open(tmp_path / name) as picture:
        assert picture.format == {"a.jpg": "JPEG", "a.png": "PNG"}[name]
        np.testing.assert_allclose(np.asarray(picture).astype(int), image, atol=3)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_rle_of_overlapping_masks(tmp_path):
    masks = np.array([np.eye(3), np.ones((3, 3))], bool)
    objects = InstanceResult(
        masks, np.zeros((2, 4), np.float32), np.ones(2, np.float32), np.array([1, 1]), ["car"] * 2
    )
    with ResultWriter(tmp_path, CLASSES) as writer:
        writer.add("a", "a.jpg", Prediction((3, 3), CLASSES, instance=objects))
    codes = [a["segmentation"] for a in json.loads((tmp_path / "instances.json").read_text())["annotations"]]
    np.testing.assert_array_equal(rle.decode(codes).transpose(2, 0, 1), masks)

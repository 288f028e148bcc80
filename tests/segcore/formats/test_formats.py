"""Each written format, read back as its reader reads it, gives the masks again."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from skimage.draw import polygon2mask

from segcore.formats import FORMATS, shapes_of, to_detectron2, to_supervision, write_formats
from segcore.formats.geojson import feature_collection
from segcore.predictions import Prediction
from segcore.results import ResultWriter
from tests.pictures import CLASSES, prediction

TASKS = ("panoptic", "instance", "semantic")


@pytest.fixture
def found() -> Prediction:
    return prediction(3)


@pytest.fixture
def write(found, tmp_path):
    """Write one format; returns its file of a task."""

    def call(name: str, task: str) -> Path:
        write_formats(tmp_path, "street", "photos/street.jpg", found, [name])
        return tmp_path / name / task / f"street{FORMATS[name].extension[task]}"

    return call


def masks_of(found: Prediction, task: str) -> list[np.ndarray]:
    return [shape.mask for shape in shapes_of(found, task)]


def fill(polygons: list[list], size: tuple[int, int]) -> np.ndarray:
    """GeoJSON's polygons, filled by scikit-image."""
    mask = np.zeros(size, bool)
    for exterior, *holes in polygons:
        part = polygon2mask(size, np.array(exterior)[:, ::-1] - 0.5)
        for hole in holes:
            part &= ~polygon2mask(size, np.array(hole)[:, ::-1] - 0.5)
        mask |= part
    return mask


def same(masks: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    return len(masks) == len(expected) and all(map(np.array_equal, masks, expected))


@pytest.mark.parametrize("task", TASKS)
def test_geojson(write, found, task):
    features = json.loads(write("geojson", task).read_text())["features"]
    polygons = [
        f["geometry"]["coordinates"] if f["geometry"]["type"] == "MultiPolygon" else [f["geometry"]["coordinates"]]
        for f in features
    ]
    assert same([fill(p, found.size) for p in polygons], masks_of(found, task))
    assert [f["properties"]["name"] for f in features] == [s.name for s in shapes_of(found, task)]
    for exterior, *_ in (polygon for parts in polygons for polygon in parts):
        x, y = np.array(exterior[:-1]).T
        assert exterior[0] == exterior[-1] and (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() > 0


def test_geojson_on_a_map(found):
    shapes = shapes_of(found, "instance")
    plain = feature_collection(shapes)["features"][0]["geometry"]["coordinates"][0]
    north_up = feature_collection(shapes, (0.5, 0, 100, 0, -0.5, 200))["features"][0]["geometry"]["coordinates"][0]
    assert {(0.5 * x + 100, 200 - 0.5 * y) for x, y in plain} == {tuple(p) for p in north_up}
    x, y = np.array(north_up[:-1]).T
    assert (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() > 0, "the right-hand rule holds on the map"
    with pytest.raises(ValueError, match="six numbers"):
        feature_collection(shapes, (1, 0, 0))


@pytest.mark.parametrize("task", TASKS)
def test_svg(write, found, task):
    root = ElementTree.parse(write("svg", task)).getroot()
    masks = []
    for path in reversed(root.findall("{*}path")):
        mask = np.zeros(found.size, bool)
        for ring in path.get("d").split("Z")[:-1]:
            x, y = map(int, re.match(r"M(\d+) (\d+)", ring).groups())
            points = [(x, y)]
            for letter, number in re.findall(r"([HV])(\d+)", ring):
                x, y = (int(number), y) if letter == "H" else (x, int(number))
                points.append((x, y))
            mask ^= polygon2mask(found.size, np.array(points)[:, ::-1] - 0.5)  # even-odd
        masks.append(mask)
    assert root.get("fill-rule") == "evenodd" and same(masks, masks_of(found, task))


def labelme_mask(shape: dict, size: tuple[int, int]) -> np.ndarray:
    """As labelme's file format says: the corners of the crop count in."""
    (x0, y0), (x1, y1) = shape["points"]
    mask = np.zeros(size, bool)
    mask[y0 : y1 + 1, x0 : x1 + 1] = np.asarray(Image.open(io.BytesIO(base64.b64decode(shape["mask"]))))
    return mask


@pytest.mark.parametrize("task", TASKS)
def test_labelme(write, found, task):
    path = write("labelme", task)
    document = json.loads(path.read_text())
    assert (document["imageHeight"], document["imageWidth"]) == found.size
    assert same([labelme_mask(s, found.size) for s in document["shapes"]], masks_of(found, task))
    for shape in document["shapes"]:
        assert {"label", "points", "shape_type", "flags", "group_id", "description", "mask"} == set(shape)


@pytest.mark.parametrize("task", TASKS)
def test_cvat(write, found, task):
    picture = ElementTree.parse(write("cvat", task)).getroot().find("image")
    masks = []
    for element in reversed(picture.findall("mask")):
        x, y, w, h = (int(element.get(key)) for key in ("left", "top", "width", "height"))
        runs = [int(word) for word in element.get("rle").split(",")]
        flat = np.concatenate([np.full(length, i % 2 == 1) for i, length in enumerate(runs)])
        mask = np.zeros(found.size, bool)
        mask[y : y + h, x : x + w] = flat.reshape(h, w)
        masks.append(mask)
    assert (picture.get("height"), picture.get("width")) == tuple(map(str, found.size))
    assert same(masks, masks_of(found, task))


def test_cityscapes(write, found):
    ids = np.asarray(Image.open(write("cityscapes", "semantic")))
    numbers = {"sky": 23, "car": 26, "road": 7}
    table = np.array([numbers[name] for name in CLASSES.names])
    assert np.array_equal(ids, table[found.semantic.labels])
    listed = write("cityscapes", "instance")
    rows = [line.split() for line in listed.read_text().splitlines()]
    masks = [np.asarray(Image.open(listed.parent / name)) == 255 for name, _, _ in rows]
    assert same(masks, masks_of(found, "instance"))
    assert [(int(id_), float(score)) for _, id_, score in rows] == [(26, 0.9), (26, 0.6)]


def test_cityscapes_own_reader(write, found):
    reader = pytest.importorskip("cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling")
    listed = write("cityscapes", "instance")
    args = type("Arguments", (), {"predictionPath": str(listed.parents[1])})
    rows = reader.readPredInfo(str(listed), args)
    assert [info["labelID"] for info in rows.values()] == [26, 26]
    assert same([np.asarray(Image.open(name)) > 0 for name in rows], masks_of(found, "instance"))


def test_cityscapes_refuses_other_classes(found, tmp_path):
    strange = Prediction.from_label_map(found.panoptic.ids, {1: "a", 2: "b", 7: "c", 300: "d"}, dict.fromkeys(
        (1, 2, 7, 300), (9, 9, 9)))
    write_formats(tmp_path, "x", "x.jpg", strange, ["labelme"])
    with pytest.raises(ValueError, match="'unicorn' is none of Cityscapes'"):
        from segcore.formats.cityscapes import label_id
        label_id("unicorn")


def test_coco(found, tmp_path):
    with ResultWriter(tmp_path, CLASSES, ["svg"]) as writer:
        writer.add("street", "street.jpg", found)
    objects = COCO(str(tmp_path / "instances.json"))
    assert same([objects.annToMask(a).astype(bool) for a in objects.anns.values()], masks_of(found, "instance"))
    results = objects.loadRes([{k: a[k] for k in ("image_id", "category_id", "segmentation", "score")}
                               for a in objects.anns.values()])
    assert len(results.anns) == 2
    (annotation,) = json.loads((tmp_path / "panoptic.json").read_text())["annotations"]
    ids = np.asarray(Image.open(tmp_path / "panoptic" / "street.png")).astype(int) @ (1, 256, 65536)
    assert same([ids == s["id"] for s in annotation["segments_info"]], masks_of(found, "panoptic"))
    labels = np.asarray(Image.open(tmp_path / "semantic" / "street.png"))
    assert np.array_equal(labels, found.semantic.labels)
    assert (tmp_path / "svg" / "instance" / "street.svg").is_file()


def test_detectron2(found):
    output = to_detectron2(found)
    ids, segments = output["panoptic_seg"]
    assert same([ids.numpy() == s["id"] for s in segments], masks_of(found, "panoptic"))
    instances = output["instances"]
    assert torch.equal(instances.pred_masks, torch.from_numpy(found.instance.masks)) and len(instances) == 2
    assert np.array_equal(output["sem_seg"].argmax(0).numpy(), found.semantic.labels)


@pytest.mark.skipif(importlib.util.find_spec("supervision") is None, reason="supervision is not installed")
@pytest.mark.parametrize("task", TASKS)
def test_supervision(found, task):
    import supervision

    detections = to_supervision(found, task)
    assert same(list(detections.mask), masks_of(found, task))
    assert detections["class_name"].tolist() == [s.name for s in shapes_of(found, task)]
    if task == "instance":
        theirs = supervision.Detections.from_detectron2(to_detectron2(found))
        assert same(list(theirs.mask), masks_of(found, task))
        assert np.array_equal(theirs.xyxy, detections.xyxy) and np.allclose(theirs.confidence, detections.confidence)


def test_a_label_map_is_a_prediction():
    labels = np.array([[0, 3], [7, 7]])
    made = Prediction.from_label_map(labels, {3: "cat", 7: "dog"}, {3: (1, 2, 3), 7: (4, 5, 6)})
    assert [(s.name, s.id, s.area) for s in made.panoptic.segments] == [("cat", 3, 1), ("dog", 7, 2)]
    with pytest.raises(ValueError, match="no class is given for"):
        Prediction.from_label_map(labels, {3: "cat"}, {3: (1, 2, 3)})


def test_an_unknown_format(tmp_path):
    with pytest.raises(ValueError, match="unknown format 'docx'; known are geojson"):
        ResultWriter(tmp_path, CLASSES, ["docx"])

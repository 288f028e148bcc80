"""Registration (repeatable, lazy, equal to the official metadata), and each way a folder can be wrong."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from segcore.data import builtin, class_index_of, register_builtin, register_panoptic
from segcore.data.metadata import panoptic_metadata

CATEGORIES = [
    {"id": 3, "name": "sky", "isthing": 0},
    {"id": 9, "name": "ball", "isthing": 1, "color": [1, 2, 3]},
]
OFFICIAL = {
    "ade20k_panoptic_train": 150,
    "coco_2017_train_panoptic_with_sem_seg": 133,
    "cityscapes_fine_panoptic_train": 19,
    "mapillary_vistas_panoptic_train": 65,
}


@pytest.fixture
def folder(tmp_path):
    """Two images in COCO panoptic format; returns (keyword arguments, the JSON's content, its writer)."""
    (tmp_path / "images").mkdir()
    (tmp_path / "pan").mkdir()
    for name in ("a", "b"):
        Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "images" / f"{name}.jpg")
        Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "pan" / f"{name}.png")
    content = {
        "images": [{"id": i, "file_name": f"{n}.jpg", "height": 4, "width": 6} for i, n in enumerate("ab")],
        "annotations": [
            {
                "image_id": i,
                "file_name": f"{n}.png",
                "segments_info": [{"id": 5, "category_id": 9, "iscrowd": 1}, {"id": 6, "category_id": 3}],
            }
            for i, n in enumerate("ab")
        ],
        "categories": CATEGORIES,
    }
    path = tmp_path / "pan.json"

    def write():
        path.write_text(json.dumps(content))

    write()
    arguments = {
        "image_root": str(tmp_path / "images"),
        "panoptic_root": str(tmp_path / "pan"),
        "panoptic_json": str(path),
    }
    return arguments, content, write


@pytest.fixture
def name():
    yield "catalog_test"
    DatasetCatalog.pop("catalog_test", None)
    MetadataCatalog.pop("catalog_test", None)


def test_dataset_dicts(folder, name):
    arguments, _, _ = folder
    register_panoptic(name, **arguments)
    first, second = DatasetCatalog.get(name)
    assert second["file_name"].endswith("images/b.jpg")
    assert second["pan_seg_file_name"].endswith("pan/b.png")
    assert (first["image_id"], first["height"], first["width"]) == (0, 4, 6)
    assert "sem_seg_file_name" not in first
    assert first["segments_info"] == [
        {"id": 5, "category_id": 1, "iscrowd": 1, "isthing": True},
        {"id": 6, "category_id": 0, "iscrowd": 0, "isthing": False},
    ]
    metadata = MetadataCatalog.get(name)
    assert metadata.stuff_classes == ["sky", "ball"]
    assert metadata.thing_dataset_id_to_contiguous_id == {9: 1}
    assert class_index_of(metadata) == {3: 0, 9: 1}
    assert metadata.stuff_colors[1] == [1, 2, 3]
    assert metadata.panoptic_json == arguments["panoptic_json"]


def test_label_pngs_are_named_where_they_exist(folder, name, tmp_path):
    arguments, _, _ = folder
    labels = tmp_path / "labels"
    register_panoptic(name, **arguments, sem_seg_root=str(labels))
    assert "sem_seg_file_name" not in DatasetCatalog.get(name)[0]
    labels.mkdir()
    for n in "ab":
        Image.fromarray(np.zeros((4, 6), np.uint8)).save(labels / f"{n}.png")
    assert DatasetCatalog.get(name)[1]["sem_seg_file_name"].endswith("labels/b.png")


def test_repeating_is_harmless_and_changing_is_not(folder, name):
    arguments, _, _ = folder
    for _ in range(2):
        register_panoptic(name, **arguments)
    with pytest.raises(ValueError, match=r"catalog_test.*panoptic_root.*choose another name"):
        register_panoptic(name, **{**arguments, "panoptic_root": "elsewhere"})
    with pytest.raises(ValueError, match="stuff_classes"):
        register_panoptic(name, **arguments, categories=[{**CATEGORIES[0], "name": "sea"}, CATEGORIES[1]])
    assert len(DatasetCatalog.get(name)) == 2


def test_a_name_of_another_package_is_left_alone(folder, name):
    arguments, _, _ = folder
    DatasetCatalog.register(name, lambda: ["theirs"])
    MetadataCatalog.get(name).set(stuff_classes=["theirs"])
    register_panoptic(name, **arguments)
    assert DatasetCatalog.get(name) == ["theirs"]
    assert MetadataCatalog.get(name).stuff_classes == ["theirs"]
    assert MetadataCatalog.get(name).label_divisor == 1000


def test_categories_make_registration_lazy(name):
    register_panoptic(
        name, image_root="x", panoptic_root="x", panoptic_json="x/none.json", categories=CATEGORIES
    )
    assert MetadataCatalog.get(name).stuff_classes == ["sky", "ball"]
    with pytest.raises(FileNotFoundError, match=r"x/none\.json does not exist; set DETECTRON2_DATASETS"):
        DatasetCatalog.get(name)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda c: c["annotations"][1].update(file_name="gone.png"), FileNotFoundError, r"gone\.png.*1 of 2"),
        (lambda c: c["images"][0].update(file_name="gone.jpg"), FileNotFoundError, r"gone\.jpg"),
        (lambda c: c["annotations"].clear(), ValueError, r"pan\.json holds no annotations \(2 images\)"),
        (lambda c: c["images"].pop(), ValueError, r"b\.png belongs to image 1, which is not among its 1"),
        (lambda c: c.pop("images"), ValueError, "no COCO panoptic file: it has no images"),
        (lambda c: c["categories"].pop(), ValueError, r"segment 5 of a\.png has category 9"),
        (lambda c: c.pop("categories"), ValueError, "lists no categories"),
        (lambda c: c["categories"].append(CATEGORIES[0]), ValueError, "ids must differ"),
        (lambda c: c["categories"][0].pop("isthing"), ValueError, "has no isthing"),
    ],
)
def test_wrong_folders(folder, name, change, error, message):
    arguments, content, write = folder
    content["categories"] = [dict(c) for c in CATEGORIES]
    change(content)
    write()
    with pytest.raises(error, match=message):
        register_panoptic(name, **arguments)
        DatasetCatalog.get(name)


def test_damaged_json(folder, name):
    arguments, _, _ = folder
    register_panoptic(name, **arguments)
    with open(arguments["panoptic_json"], "w") as file:
        file.write('{"images": [')
    with pytest.raises(ValueError, match="is not valid JSON"):
        DatasetCatalog.get(name)


def test_default_colours_differ():
    categories = [{"id": i, "name": str(i), "isthing": 0} for i in range(200)]
    colors = panoptic_metadata(categories)["stuff_colors"]
    assert len({tuple(c) for c in colors}) == 200


def test_every_builtin_set_is_consistent():
    register_builtin()
    for stem in builtin.builtin_sets():
        for split in builtin.builtin_content(stem)["splits"]:
            metadata = MetadataCatalog.get(split)
            count = len(metadata.stuff_classes)
            assert sorted(class_index_of(metadata).values()) == list(range(count))
            assert len(metadata.stuff_colors) == count
            assert len(metadata.thing_colors) == len(metadata.thing_classes)


def test_instance_numbers_of_ade20k_alone():
    register_builtin()
    metadata = MetadataCatalog.get("ade20k_panoptic_val")
    assert sorted(metadata.instance_class_map.values()) == list(range(100))
    for index, number in metadata.instance_class_map.items():
        assert metadata.thing_classes[number] == metadata.stuff_classes[index]
    assert "instance_class_map" not in MetadataCatalog.get("mapillary_vistas_panoptic_val").as_dict()


@pytest.mark.parametrize("name", OFFICIAL)
def test_golden_metadata(name, spec_dir):
    register_builtin()
    golden = json.loads((spec_dir / "oneformer/golden/dataset_metadata.json").read_text())[name]
    metadata = MetadataCatalog.get(name).as_dict()
    assert len(metadata["stuff_classes"]) == OFFICIAL[name]
    assert len(metadata["thing_dataset_id_to_contiguous_id"]) == golden.pop("num_things")
    for key, value in golden.items():
        ours = metadata[key]
        if isinstance(ours, dict):
            ours = {str(k): v for k, v in ours.items()}
        assert ours == value, key


@pytest.fixture
def fresh_root(monkeypatch):
    """The built-in sets without a chosen root, before and after the test."""
    monkeypatch.setattr(builtin, "_chosen_root", None)
    yield monkeypatch
    monkeypatch.undo()
    register_builtin()


def cityscapes(root, split="val"):
    """One image in Cityscapes' layout."""
    name = "ulm_000000_000019"
    image = root / f"cityscapes/leftImg8bit/{split}/ulm/{name}_leftImg8bit.png"
    png = root / f"cityscapes/gtFine/cityscapes_panoptic_{split}/{name}_gtFine_panoptic.png"
    for path in (image, png):
        path.parent.mkdir(parents=True)
        Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(path)
    content = {
        "images": [{"id": name, "file_name": f"{name}_gtFine_leftImg8bit.png", "height": 2, "width": 2}],
        "annotations": [
            {
                "image_id": name,
                "file_name": png.name,
                "segments_info": [{"id": 26001, "category_id": 26, "iscrowd": 0}],
            }
        ],
    }
    (root / f"cityscapes/gtFine/cityscapes_panoptic_{split}.json").write_text(json.dumps(content))
    return image


def test_root_is_asked_for_when_data_is_loaded(fresh_root, tmp_path):
    register_builtin()
    image = cityscapes(tmp_path)
    fresh_root.setenv("DETECTRON2_DATASETS", str(tmp_path))
    (record,) = DatasetCatalog.get("cityscapes_fine_panoptic_val")
    assert record["file_name"] == str(image)
    assert record["segments_info"][0]["category_id"] == 13
    assert record["segments_info"][0]["isthing"]
    assert MetadataCatalog.get("cityscapes_fine_panoptic_val").image_root.startswith(str(tmp_path))


def test_chosen_root_wins_over_the_environment(fresh_root, tmp_path):
    fresh_root.setenv("DETECTRON2_DATASETS", "elsewhere")
    register_builtin(root=tmp_path)
    register_builtin()
    assert MetadataCatalog.get("ade20k_panoptic_val").panoptic_root.startswith(str(tmp_path))


def test_importing_and_registering_twice_in_one_process():
    program = """
import sys
import oneformer.data, segcore.data
segcore.data.register_builtin()
for module in [m for m in sys.modules if m.split(".")[0] in ("oneformer", "segcore")]:
    del sys.modules[module]
import oneformer.data, segcore.data
segcore.data.register_builtin()
from detectron2.data import DatasetCatalog
print(DatasetCatalog["ade20k_panoptic_val"] is not None)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout.strip() == "True", result.stderr

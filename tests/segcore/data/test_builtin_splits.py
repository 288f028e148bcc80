"""The benchmarks' instance and semantic splits: official names and metadata, one space of class indices."""

from __future__ import annotations

import subprocess
import sys

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import ADE20K_SEM_SEG_CATEGORIES

from segcore.data import builtin, class_index_of, register_builtin
from segcore.data.builtin import builtin_content, builtin_splits

# name -> (evaluator_type, classes, thing_classes, category id and class index of the first thing)
OFFICIAL = {
    "ade20k_instance_train": ("coco", 100, 100, (7, 0)),
    "ade20k_instance_val": ("coco", 100, 100, (7, 0)),
    "ade20k_sem_seg_train": ("sem_seg", 150, 100, (7, 7)),
    "ade20k_sem_seg_val": ("sem_seg", 150, 100, (7, 7)),
    "coco_2017_val_panoptic2instance": ("coco", 133, 80, (1, 0)),
    "cityscapes_fine_instance_seg_train": ("cityscapes_instance", 19, 8, (24, 11)),
    "cityscapes_fine_instance_seg_val": ("cityscapes_instance", 19, 8, (24, 11)),
    "cityscapes_fine_sem_seg_train": ("cityscapes_sem_seg", 19, 8, (24, 11)),
    "cityscapes_fine_sem_seg_val": ("cityscapes_sem_seg", 19, 8, (24, 11)),
    "mapillary_vistas_instance_train": ("coco", 65, 65, (1, 0)),
    "mapillary_vistas_instance_val": ("coco", 65, 65, (1, 0)),
    "mapillary_vistas_sem_seg_train": ("sem_seg", 65, 65, (1, 0)),
    "mapillary_vistas_sem_seg_val": ("sem_seg", 65, 65, (1, 0)),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_metadata(name):
    register_builtin()
    register_builtin()
    kind, classes, things, (category, index) = OFFICIAL[name]
    metadata = MetadataCatalog.get(name)
    assert metadata.evaluator_type == kind
    assert len(metadata.stuff_classes) == classes and len(metadata.thing_classes) == things
    assert next(iter(metadata.thing_dataset_id_to_contiguous_id.items())) == (category, index)
    assert sorted(class_index_of(metadata).values()) == list(range(classes))
    assert metadata.tasks == (("instance",) if "instance" in name else ("semantic",))
    if metadata.tasks == ("semantic",):
        ignored = 65 if "mapillary" in name else 255
        assert metadata.ignore_label == ignored and metadata.ignored_labels == (ignored,)
        assert metadata.label_classes == {i: i for i in range(classes)}


def test_the_numbers_of_ade20k_instances_belong_to_the_panoptic_classes():
    register_builtin()
    instance, panoptic = MetadataCatalog.get("ade20k_instance_val"), MetadataCatalog.get("ade20k_panoptic_val")
    assert instance.instance_class_map == panoptic.instance_class_map
    for index, number in instance.instance_class_map.items():
        assert instance.thing_classes[number] == panoptic.stuff_classes[index]
    assert (
        panoptic.stuff_classes == ADE20K_SEM_SEG_CATEGORIES == MetadataCatalog.get("ade20k_sem_seg_val").stuff_classes
    )


def test_every_split_of_every_file_is_registered_and_lies_under_the_root(monkeypatch):
    monkeypatch.setattr(builtin, "_chosen_root", "/somewhere")
    for data_set in builtin.builtin_sets():
        for name, split in builtin_splits(data_set).items():
            assert name in DatasetCatalog.list()
            assert all(path.startswith("/somewhere/") for path in split.locate().paths().values())
            assert split.images in {
                p["images"] for k, v in builtin_content(data_set).items() if "splits" in k for p in v.values()
            }


def test_names_of_other_packages_stay_theirs_and_detectron2s_fixed_roots_are_taken_over():
    program = """
from detectron2.data import DatasetCatalog, MetadataCatalog
DatasetCatalog.register("ade20k_instance_val", lambda: ["theirs"])
MetadataCatalog.get("ade20k_instance_val").set(thing_classes=["theirs"])
coco = DatasetCatalog["coco_2017_val"]
stock = {n: MetadataCatalog.get(n).as_dict() for n in
         ("cityscapes_fine_instance_seg_val", "cityscapes_fine_sem_seg_val", "ade20k_sem_seg_val", "coco_2017_val")}
from segcore.data import register_builtin
register_builtin("/somewhere")
register_builtin("/elsewhere")
assert DatasetCatalog.get("ade20k_instance_val") == ["theirs"]
assert MetadataCatalog.get("ade20k_instance_val").thing_classes == ["theirs"]
assert DatasetCatalog["coco_2017_val"] is coco  # its root is fixed, but it is anyone's: only filled
for name, fields in stock.items():
    ours = MetadataCatalog.get(name).as_dict()
    for key, value in fields.items():
        assert key in ("gt_dir", "image_root", "sem_seg_root") or ours[key] == value, (name, key)
assert MetadataCatalog.get("coco_2017_val").tasks == ("instance",)
assert MetadataCatalog.get("cityscapes_fine_instance_seg_val").gt_dir == "/elsewhere/cityscapes/gtFine/val"
print("well")
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout.strip() == "well", result.stderr

"""The embedded data set: its scenes are consistent and varied, and it is written once, all or nothing."""

from __future__ import annotations

import json
import threading
from collections import Counter

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from segcore.data import builtin, drawn, register_builtin
from segcore.data.images import read_image, read_panoptic_ids
from segcore.data.mini import CATEGORIES, draw_scene, ensure_mini, writer
from segcore.data.mini.scene import HEIGHT, WIDTH

FEW = {"train": 3, "val": 2}


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(7, number) for number in range(24)]


def test_equal_seeds_give_equal_scenes(scenes):
    again = draw_scene(7, 0)
    assert (again.image == scenes[0].image).all()
    assert (again.ids == scenes[0].ids).all()
    assert again.segments == scenes[0].segments
    assert (scenes[1].image != scenes[0].image).mean() > 0.5


def test_segments_describe_the_id_map(scenes):
    for scene in scenes:
        assert scene.image.shape == (HEIGHT, WIDTH, 3)
        assert scene.image.dtype == np.uint8
        listed = [s["id"] for s in scene.segments]
        assert sorted(listed) == sorted(set(np.unique(scene.ids)) - {0})
        for segment in scene.segments:
            rows, columns = np.nonzero(scene.ids == segment["id"])
            assert segment["area"] == len(rows) >= 40
            x, y, width, height = segment["bbox"]
            assert (rows.min(), columns.min()) == (y, x)
            assert (rows.max() + 1, columns.max() + 1) == (y + height, x + width)


def test_scenes_have_everything(scenes):
    kinds = Counter((s["category_id"], s["iscrowd"]) for scene in scenes for s in scene.segments)
    stuff = {c["id"] for c in CATEGORIES if not c["isthing"]}
    assert {category for category, _ in kinds} == {c["id"] for c in CATEGORIES}
    assert 2 <= sum(n for (_, crowd), n in kinds.items() if crowd) <= 20
    assert not any(crowd and category in stuff for category, crowd in kinds)
    assert 5 <= sum((scene.ids == 0).any() for scene in scenes) <= 23
    several = [max(Counter(s["category_id"] for s in scene.segments).values()) for scene in scenes]
    assert np.mean(np.array(several) >= 2) > 0.5


def test_one_class_has_many_colours_and_sizes(scenes):
    colours, areas = [], []
    for scene in scenes:
        for s in scene.segments:
            if s["category_id"] == 11 and not s["iscrowd"]:
                colours.append(scene.image[scene.ids == s["id"]].mean(0))
                areas.append(s["area"])
    assert len(areas) > 8
    assert np.std(colours, 0).min() > 15
    assert max(areas) > 4 * min(areas)


def test_written_in_coco_panoptic_format(tmp_path):
    ensure_mini(str(tmp_path), FEW)
    base = tmp_path / writer.NAME
    content = json.loads((base / "panoptic_val.json").read_text())
    assert len(content["images"]) == len(content["annotations"]) == 2
    image, annotation = content["images"][1], content["annotations"][1]
    scene = draw_scene(writer.VERSION, 1, 1)
    assert (read_image(str(base / "val" / image["file_name"])) == scene.image).all()
    assert (read_panoptic_ids(str(base / "panoptic_val" / annotation["file_name"])) == scene.ids).all()
    assert annotation["segments_info"] == scene.segments
    assert {p.name for p in tmp_path.iterdir()} == {writer.NAME, f"{writer.NAME}.lock"}


def test_splits_share_no_scene(tmp_path):
    ensure_mini(str(tmp_path), FEW)
    pictures = [p.read_bytes() for split in FEW for p in (tmp_path / writer.NAME / split).iterdir()]
    assert len(set(pictures)) == 5


def test_drawn_once_and_again_for_a_new_version(tmp_path, monkeypatch):
    draws = []
    monkeypatch.setattr(writer, "draw_scene", lambda *seed: draws.append(seed) or draw_scene(*seed))
    ensure_mini(str(tmp_path), FEW)
    ensure_mini(str(tmp_path), FEW)
    assert len(draws) == 5
    before = (tmp_path / writer.NAME / "train/0000.png").read_bytes()
    monkeypatch.setattr(writer, "VERSION", writer.VERSION + 1)
    ensure_mini(str(tmp_path), FEW)
    assert len(draws) == 10
    assert (tmp_path / writer.NAME / "train/0000.png").read_bytes() != before
    assert len(list(tmp_path.iterdir())) == 2


def test_a_stopped_run_leaves_nothing_and_keeps_the_old_set(tmp_path, monkeypatch):
    def stop(version, split, number):
        if split == 1:
            raise KeyboardInterrupt
        return draw_scene(version, split, number)

    monkeypatch.setattr(writer, "draw_scene", stop)
    with pytest.raises(KeyboardInterrupt):
        ensure_mini(str(tmp_path), FEW)
    assert [p.name for p in tmp_path.iterdir()] == [f"{writer.NAME}.lock"]

    monkeypatch.setattr(writer, "draw_scene", draw_scene)
    ensure_mini(str(tmp_path), FEW)
    monkeypatch.setattr(writer, "VERSION", writer.VERSION + 1)
    monkeypatch.setattr(writer, "draw_scene", stop)
    with pytest.raises(KeyboardInterrupt):
        ensure_mini(str(tmp_path), FEW)
    assert json.loads((tmp_path / writer.NAME / "version.json").read_text())["version"] == writer.VERSION - 1


def test_of_several_processes_one_draws(tmp_path, monkeypatch):
    draws = []
    monkeypatch.setattr(writer, "draw_scene", lambda *seed: draws.append(seed) or draw_scene(*seed))
    threads = [threading.Thread(target=ensure_mini, args=(str(tmp_path), FEW)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(draws) == 5


def test_a_root_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(drawn.os, "makedirs", refuse)
    with pytest.raises(PermissionError, match="set DETECTRON2_DATASETS to a folder that can"):
        ensure_mini(str(tmp_path / "closed"), FEW)


def test_loads_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "SCENES", FEW)
    monkeypatch.setattr(builtin, "_chosen_root", None)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    register_builtin()
    assert not list(tmp_path.iterdir())  # registering draws nothing
    train, val = (DatasetCatalog.get(f"mini_panoptic_{split}") for split in ("train", "val"))
    assert (len(train), len(val)) == (3, 2)
    metadata = MetadataCatalog.get("mini_panoptic_val")
    assert metadata.stuff_classes == [c["name"] for c in CATEGORIES]
    assert sorted(metadata.thing_dataset_id_to_contiguous_id.values()) == [4, 5, 6, 7, 8]
    names = {metadata.stuff_classes[s["category_id"]] for s in val[0]["segments_info"]}
    assert {"sky", "grass"} <= names

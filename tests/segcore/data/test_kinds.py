"""The embedded set of many classes: held-out kinds never train, scenes are consistent, it loads by name."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from segcore.data import builtin, register_builtin
from segcore.data.kinds import CATEGORIES, HELD_OUT, SEEN, draw_scene, writer
from segcore.data.kinds.__main__ import main
from segcore.data.kinds.scene import KINDS
from segcore.data.kinds.shapes import SHAPES
from segcore.data.kinds.textures import TEXTURES

FEW = {"train": 12, "val": 6, "seen": 2}


def test_a_fifth_of_the_combinations_is_held_out_but_no_part_of_them():
    assert len(CATEGORIES) == len(KINDS) + 1 == 12 * 8 * 10 + 1
    assert len({c["name"] for c in CATEGORIES}) == len(CATEGORIES)
    assert sorted({*SEEN} | {*HELD_OUT}) == list(range(len(KINDS))) and not {*SEEN} & {*HELD_OUT}
    assert len(HELD_OUT) == len(KINDS) // 5
    for part in range(3):
        assert {KINDS[k][part] for k in SEEN} == {KINDS[k][part] for k in HELD_OUT} == {k[part] for k in KINDS}


def test_every_shape_fits_its_circle_and_no_two_are_alike():
    y, x = np.mgrid[-1.2:1.2:121j, -1.2:1.2:121j]
    masks = [shape(x, y) for shape in SHAPES]
    for shape, mask in zip(SHAPES, masks):
        assert 0.15 < mask.mean() * 2.4**2 / np.pi < 1, shape.__name__
        assert not mask[x**2 + y**2 > 1.04].any(), shape.__name__
    same = [(a & b).sum() / (a | b).sum() for i, a in enumerate(masks) for b in masks[:i]]
    assert max(same) < 0.85


def test_textures_mix_two_colours():
    y, x = np.mgrid[-1:1:81j, -1:1:81j]
    for texture in TEXTURES:
        part = texture(x, y, np.random.default_rng(0))
        assert part.min() >= 0 and part.max() <= 1
        assert texture.__name__ == "plain" or 0.1 < part.mean() < 0.9, texture.__name__


def test_scenes_show_only_the_kinds_asked_for_and_describe_themselves():
    for number in range(20):
        scene = draw_scene((3, 40, 77, 500, 900), 5, number)
        listed = {s["category_id"] for s in scene.segments}
        assert listed <= {4, 41, 78, 501, 901, len(CATEGORIES)}
        assert sorted(s["id"] for s in scene.segments) == sorted(set(np.unique(scene.ids)) - {0})
        assert all(s["area"] == (scene.ids == s["id"]).sum() for s in scene.segments)
    again = draw_scene((3, 40, 77, 500, 900), 5, 19)
    assert (again.image == scene.image).all() and again.segments == scene.segments


def test_loads_by_name_and_keeps_held_out_kinds_out(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "SCENES", FEW)
    monkeypatch.setattr(builtin, "_chosen_root", None)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    register_builtin()
    records = {split: DatasetCatalog.get(f"kinds_panoptic_{split}") for split in FEW}
    assert {split: len(r) for split, r in records.items()} == FEW
    ground = len(CATEGORIES) - 1
    shown = {
        split: {s["category_id"] for r in found for s in r["segments_info"]} - {ground}
        for split, found in records.items()
    }
    assert shown["train"] <= {*SEEN} and shown["seen"] <= {*SEEN} and shown["val"] <= {*HELD_OUT}


def test_examples_of_a_kind_show_it_where_the_mask_says(tmp_path, capsys):
    name = "blue plain disc"
    main(["--output", str(tmp_path), "--kind", name, "--examples", "2", "--targets", "3"])
    assert [len(list((tmp_path / f).iterdir())) for f in ("examples", "masks", "targets", "truth")] == [2, 2, 3, 3]
    assert name in capsys.readouterr().out
    for image, mask in (("examples/1", "masks/1"), ("targets/2", "truth/2")):
        red, _, blue = np.asarray(Image.open(tmp_path / f"{image}.png"), float).transpose(2, 0, 1)
        inside = np.asarray(Image.open(tmp_path / f"{mask}.png")) == 255
        assert 0 < inside.mean() < 1
        assert (blue - red)[inside].mean() > 60


def test_an_unknown_kind_is_named(tmp_path):
    with pytest.raises(ValueError, match="no kind is named 'tartan cube'"):
        main(["--output", str(tmp_path), "--kind", "tartan cube"])

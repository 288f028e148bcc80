"""Configs build; wrong ones say what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from seggpt import add_seggpt_config
from seggpt.modeling import SegGPT
from tests.seggpt.small_seggpt import small_model

CONFIGS = Path(__file__).parents[2] / "configs" / "seggpt"


def seggpt_cfg():
    cfg = get_cfg()
    add_seggpt_config(cfg)
    cfg.MODEL.DEVICE = "meta"
    return cfg


@pytest.mark.parametrize("name, millions", [("vit_l", 370.7), ("vit_b", 136.3), ("small", 10.8)])
def test_configs_build(name, millions):
    cfg = seggpt_cfg()
    cfg.merge_from_file(str(CONFIGS / f"seggpt_{name}.yaml"))
    with torch.device("meta"):
        model = build_model(cfg)
    assert isinstance(model, SegGPT)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_adding_keys_twice_changes_nothing():
    cfg = seggpt_cfg()
    cfg.MODEL.SEGGPT.DEPTH = 7
    add_seggpt_config(cfg)
    assert cfg.MODEL.SEGGPT.DEPTH == 7


@pytest.mark.parametrize("change, words", [
    ({"img_size": (120, 64)}, "IMG_SIZE"), ({"num_heads": 5}, "NUM_HEADS"),
    ({"merge_block": 8}, "MERGE_BLOCK"),
    ({"out_blocks": (1, 5, 6, 7)}, "OUT_BLOCKS"), ({"out_blocks": (3, 5, 6, 8)}, "OUT_BLOCKS"),
    ({"attention": "windowed"}, "ATTENTION"),
])
def test_impossible_architectures_are_named(change, words):
    with pytest.raises(ValueError, match=words):
        small_model(**change)


@torch.no_grad()
def test_other_canvas_sizes_and_aspects(model):
    for height, width, rows in ((192, 96, 72), (128, 160, 80), (32, 16, 2)):
        image = torch.randn(2, 3, height, width)
        mask = torch.zeros(1, rows)
        assert model.inpaint(image, image, mask, torch.tensor([0, 1])).shape == image.shape


@torch.no_grad()
def test_hidden_targets_do_not_matter(model):
    image, target = torch.randn(2, 1, 3, 128, 64)
    mask = torch.zeros(1, 32)
    mask[:, 16:] = 1
    changed = target.clone()
    changed[:, :, 64:] = 7
    first, second = (model.inpaint(image, t, mask, torch.tensor([1])) for t in (target, changed))
    assert torch.equal(first, second)


@pytest.mark.parametrize("wrong, words", [
    ({"targets": torch.zeros(1, 3, 64, 64)}, "targets"), ({"mask": torch.zeros(1, 31)}, "mask"),
    ({"seg_type": None}, "seg_type"), ({"seg_type": torch.tensor([0, 1])}, "seg_type"),
    ({"images": torch.zeros(1, 3, 120, 64), "targets": torch.zeros(1, 3, 120, 64)}, "patches"),
])
def test_canvases_that_do_not_fit_are_refused(model, wrong, words):
    arguments = {"images": torch.zeros(1, 3, 128, 64), "targets": torch.zeros(1, 3, 128, 64),
                 "mask": torch.zeros(1, 32), "seg_type": torch.tensor([1]), **wrong}
    with pytest.raises(ValueError, match=words):
        model.inpaint(**arguments)

"""Optimizer groups, schedules and clipping, against the goldens and by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from torch import nn

from segcore.config import add_segcore_config
from segcore.solver import (
    GradientClipper,
    build_gradient_clipper,
    build_lr_scheduler,
    build_optimizer,
    cosine_after_warmup,
    layer_wise_settings,
    parameter_groups,
    parameter_settings,
    poly_factor,
    warmup_factor,
)

REPOSITORY = Path(__file__).resolve().parents[2]


def config(**solver):
    cfg = get_cfg()
    add_segcore_config(cfg)
    for key, value in solver.items():
        node = cfg.SOLVER
        *path, last = key.split(".")
        for part in path:
            node = node[part]
        node[last] = value
    return cfg


class OwnNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))


class Everything(nn.Module):
    """One parameter for each rule."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.conv = nn.Conv2d(1, 1, 1)
        self.backbone.norm = nn.LayerNorm(2)
        self.backbone.relative_position_bias_table = nn.Parameter(torch.zeros(3))
        self.backbone.absolute_pos_embed = nn.Parameter(torch.zeros(3))
        self.backbone.frozen = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.head = nn.Module()
        self.head.norm = nn.GroupNorm(1, 2)
        self.head.batch_norm = nn.BatchNorm2d(2)
        self.head.query = nn.Embedding(2, 2)
        self.head.own_norm = OwnNorm(2)
        self.head.level_embed = nn.Parameter(torch.zeros(2))
        self.head.linear = nn.Linear(2, 2)
        self.head.again = self.head.linear  # shared: counted once


def settings_of(model):
    return parameter_settings(
        model, base_lr=1.0, weight_decay_base=0.05, weight_decay_embed=0.0, backbone_multiplier=0.1
    )


def test_each_rule():
    assert settings_of(Everything()) == {
        "backbone.relative_position_bias_table": (0.1, 0.0),
        "backbone.absolute_pos_embed": (0.1, 0.0),
        "backbone.conv.weight": (0.1, 0.05),
        "backbone.conv.bias": (0.1, 0.05),  # biases decay
        "backbone.norm.weight": (0.1, 0.0),
        "backbone.norm.bias": (0.1, 0.0),
        "head.level_embed": (1.0, 0.05),  # a bare parameter decays, an nn.Embedding does not
        "head.norm.weight": (1.0, 0.0),
        "head.norm.bias": (1.0, 0.0),
        "head.batch_norm.weight": (1.0, 0.0),
        "head.batch_norm.bias": (1.0, 0.0),
        "head.query.weight": (1.0, 0.0),
        "head.own_norm.weight": (1.0, 0.05),  # not one of torch's norms: ConvNeXt's decay
        "head.linear.weight": (1.0, 0.05),
        "head.linear.bias": (1.0, 0.05),
    }


def test_groups_hold_each_parameter_once():
    model = Everything()
    groups = parameter_groups(model, settings_of(model))
    members = [id(p) for group in groups for p in group["params"]]
    assert sorted(members) == sorted({id(p) for p in model.parameters() if p.requires_grad})
    assert len({(g["lr"], g["weight_decay"]) for g in groups}) == len(groups)


def test_one_group_or_one_per_parameter_is_the_same_update():
    def train(split: bool):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
        groups = parameter_groups(model, settings_of(model))
        if split:
            groups = [{**g, "params": [p]} for g in groups for p in g["params"]]
        optimizer = torch.optim.AdamW(groups)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).square().mean().backward()
            optimizer.step()
        return torch.cat([p.flatten() for p in model.parameters()])

    assert torch.equal(train(False), train(True))


@pytest.mark.parametrize("kind", ["RMSPROP", ""])
def test_unknown_optimizer(kind):
    with pytest.raises(ValueError, match=r"SOLVER.OPTIMIZER.*ADAMW"):
        build_optimizer(config(OPTIMIZER=kind), nn.Linear(1, 1))


def test_nothing_to_train():
    with pytest.raises(ValueError, match="nothing to train"):
        build_optimizer(config(), nn.Linear(1, 1).requires_grad_(False))


# -- goldens of the official optimizer -----------------------------------------------


def golden(spec_dir) -> dict:
    return json.loads((spec_dir / "oneformer" / "golden" / "optim_groups.json").read_text())


def our_config_path(spec_dir, official: str) -> Path:
    """The config that configs.md names for an official one."""
    table = (spec_dir / "oneformer" / "configs.md").read_text()
    name = official.removesuffix(".yaml")
    return REPOSITORY / re.search(rf"^\| {re.escape(name)} \| (\S+) \|$", table, re.M).group(1)


GOLDEN_CONFIGS = [
    "ade20k/oneformer_R50_bs16_160k.yaml",
    "ade20k/swin/oneformer_swin_tiny_bs16_160k.yaml",
    "ade20k/convnext/oneformer_convnext_large_bs16_160k.yaml",
    "ade20k/dinat/oneformer_dinat_large_bs16_160k.yaml",
    "cityscapes/oneformer_R50_bs16_90k.yaml",
    "coco/oneformer_R50_bs16_50ep.yaml",
]


@pytest.fixture(scope="module")
def oneformer_config():
    """A function: path -> the config of one of OneFormer's files."""
    import oneformer.modeling  # noqa: F401 -- registers the model
    from oneformer.config import add_oneformer_config

    def load(path: Path):
        cfg = get_cfg()
        add_oneformer_config(cfg)
        cfg.merge_from_file(str(path))
        cfg.MODEL.DEVICE = "meta"
        return cfg

    return load


@pytest.mark.parametrize("official", GOLDEN_CONFIGS)
def test_groups_equal_the_official_ones(official, spec_dir, oneformer_config):
    cfg = oneformer_config(our_config_path(spec_dir, official))
    with torch.device("meta"):  # names and types are all that matters
        model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    names = {id(p): name for name, p in model.named_parameters()}
    ours = {
        names[id(p)]: [g["lr"], g["weight_decay"]] for g in optimizer.param_groups for p in g["params"]
    }
    assert ours == golden(spec_dir)[official]


POLY = {"ade20k/oneformer_R50_bs16_160k.yaml": 160000, "cityscapes/oneformer_R50_bs16_90k.yaml": 90000}


@pytest.mark.parametrize("official", POLY)
def test_poly_equals_the_official_factors(official, spec_dir):
    cfg = config(
        LR_SCHEDULER_NAME="WarmupPolyLR", MAX_ITER=POLY[official], WARMUP_ITERS=0, BASE_LR=1e-4
    )
    check_factors(cfg, golden(spec_dir)[official + "|sched"]["lr_factor"])


def test_multi_step_equals_the_official_factors(spec_dir):
    cfg = config(
        LR_SCHEDULER_NAME="WarmupMultiStepLR",
        MAX_ITER=368750,
        STEPS=(327778, 355092),
        WARMUP_FACTOR=1.0,
        WARMUP_ITERS=10,
        BASE_LR=1e-4,
    )
    check_factors(cfg, golden(spec_dir)["coco/oneformer_R50_bs16_50ep.yaml|sched"]["lr_factor"])


def check_factors(cfg, factors: dict[str, float]) -> None:
    """The goldens are learning rate / base; so are ours, and they must be the same doubles."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR)
    scheduler = build_lr_scheduler(cfg, optimizer)
    ours = {}
    for iteration in factors:
        scheduler.last_epoch = int(iteration)
        ours[iteration] = scheduler.get_lr()[0] / cfg.SOLVER.BASE_LR
    assert ours == factors


# -- schedules by hand ------------------------------------------------------------------


def test_poly_by_hand():
    assert poly_factor(0, 100, 0.9) == 1.0
    assert poly_factor(50, 100, 2.0) == pytest.approx(0.25)
    assert poly_factor(50, 100, 2.0, ending=0.2) == pytest.approx(0.2 + 0.8 * 0.25)
    assert poly_factor(100, 100, 0.9) == 0.0
    assert poly_factor(120, 100, 0.9, ending=0.1) == pytest.approx(0.1)


def test_warmup_by_hand():
    assert [warmup_factor(i, 4, 0.2, "linear") for i in (0, 2, 4, 9)] == pytest.approx([0.2, 0.6, 1.0, 1.0])
    assert [warmup_factor(i, 4, 0.2, "constant") for i in (0, 3, 4)] == [0.2, 0.2, 1.0]
    with pytest.raises(ValueError, match="WARMUP_METHOD"):
        warmup_factor(0, 4, 0.2, "quadratic")


def test_poly_steps_with_the_iteration():
    cfg = config(LR_SCHEDULER_NAME="WarmupPolyLR", MAX_ITER=7, WARMUP_ITERS=2, WARMUP_FACTOR=0.5, BASE_LR=2.0)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(7):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    warm = [0.5, 0.75, 1, 1, 1, 1, 1]
    assert rates == pytest.approx([2 * w * (1 - i / 7) ** 0.9 for i, w in enumerate(warm)])


def test_unknown_schedule():
    with pytest.raises(ValueError, match="WarmupPolyLR"):
        build_lr_scheduler(config(LR_SCHEDULER_NAME="PolyWarmup"), torch.optim.SGD(with_gradients(0.0)))


# -- clipping ------------------------------------------------------------------------------


def with_gradients(*values: float) -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.zeros(1)) for _ in values]
    for parameter, value in zip(parameters, values):
        parameter.grad = torch.tensor([value])
    return parameters


def grads(parameters) -> list[float]:
    return [p.grad.item() for p in parameters]


def test_full_model_clip_clips():
    """An iterator, the one that upstream's code had used up before it clipped."""
    cfg = config(**{
        "CLIP_GRADIENTS.ENABLED": True,
        "CLIP_GRADIENTS.CLIP_TYPE": "full_model",
        "CLIP_GRADIENTS.CLIP_VALUE": 0.01,
    })
    parameters = with_gradients(300.0, 400.0)
    norm = build_gradient_clipper(cfg)(iter(parameters))
    assert norm.item() == pytest.approx(500.0)
    assert grads(parameters) == pytest.approx([0.006, 0.008], rel=1e-5)


def test_switched_off_it_only_measures():
    parameters = with_gradients(300.0, 400.0)
    norm = build_gradient_clipper(config(**{"CLIP_GRADIENTS.CLIP_TYPE": "full_model"}))(parameters)
    assert norm.item() == pytest.approx(500.0)
    assert grads(parameters) == [300.0, 400.0]


def test_other_kinds_of_clipping():
    parameters = with_gradients(3.0, -0.5)
    GradientClipper("value", 1.0)(parameters)
    assert grads(parameters) == [1.0, -0.5]
    parameters = with_gradients(3.0, -0.5)
    GradientClipper("norm", 1.0)(parameters)
    assert grads(parameters) == pytest.approx([1.0, -0.5], rel=1e-5)


def test_parameters_without_gradient_are_no_matter():
    parameters = [*with_gradients(3.0), nn.Parameter(torch.zeros(1))]
    assert GradientClipper("full_model", 1.0)(parameters).item() == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("kind", "value", "word"), [("full", 1.0, "CLIP_TYPE"), ("value", 0.0, "CLIP_VALUE")]
)
def test_wrong_clipping(kind, value, word):
    with pytest.raises(ValueError, match=word):
        GradientClipper(kind, value)


class Numbered(nn.Module):
    """Two layers, numbered from the input, and a table that is not decayed."""

    undecayed = ("table",)
    max_depth = 2

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(2, 2))
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)

    def parameter_depth(self, name: str) -> int:
        return {"table": 0, "first": 1, "second": 2}[name.split(".")[0]]


def test_layer_decay_by_hand():
    found = layer_wise_settings(Numbered(), base_lr=0.1, weight_decay=0.05, layer_decay=0.5)
    assert found == {
        "table": (0.025, 0.0),
        "first.weight": (0.05, 0.05),
        "first.bias": (0.05, 0.0),
        "second.weight": (0.1, 0.05),
        "second.bias": (0.1, 0.0),
    }


def test_layer_decay_needs_numbered_layers():
    cfg = get_cfg()
    add_segcore_config(cfg)
    cfg.SOLVER.LAYER_DECAY = 0.8
    with pytest.raises(ValueError, match="Linear does not number its layers; set it to 1.0"):
        build_optimizer(cfg, nn.Linear(2, 2))


def test_cosine_after_warmup_by_hand():
    found = [cosine_after_warmup(i, 4, 12) for i in (0, 1, 4, 8, 12, 13)]
    assert found == pytest.approx([0, 0.25, 1, 0.5, 0, 0])

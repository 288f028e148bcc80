"""Cost of the stages: counts that can be worked out, and what must hold between them."""

from __future__ import annotations

import pytest
import torch

from oneformer.analysis import measure_cost
from oneformer.analysis.cost import (
    _deformable_flops,
    _frozen,
    _grid_flops,
    _kept_bytes,
    _linear_flops,
    _neighborhood_flops,
)
from tests.oneformer.modeling.compact import compact_model


def test_stages_of_a_small_model():
    model = compact_model().train()
    stages = {cost.stage: cost for cost in measure_cost(model, (64, 96), repeats=1)}
    assert list(stages) == ["backbone", "pixel decoder", "transformer decoder", "post-processing"]
    parts = (model.backbone, model.sem_seg_head, model.task_mlp)
    assert sum(cost.parameters for cost in stages.values()) == sum(p.numel() for m in parts for p in m.parameters())
    for name in ("backbone", "pixel decoder", "transformer decoder"):
        assert stages[name].flops > 0 and stages[name].activations > 0 and stages[name].seconds > 0
    assert stages["post-processing"].activations == 0
    assert model.training and all(parameter.requires_grad for parameter in model.sem_seg_head.parameters())
    larger = {cost.stage: cost for cost in measure_cost(model, (128, 96), repeats=1)}
    assert larger["backbone"].flops == pytest.approx(2 * stages["backbone"].flops, rel=1e-3)


def test_kept_bytes_count_each_storage_once_and_no_weight():
    layer = torch.nn.Linear(8, 4)
    x = torch.zeros(16, 8, requires_grad=True)
    with torch.enable_grad(), _kept_bytes(layer) as kept:
        a = layer(x)
        assert kept() == 16 * 8 * 4  # the input; the weight is no activation
        _ = a * a
        assert kept() == 16 * 8 * 4 + 16 * 4 * 4


def test_weights_are_frozen_only_meanwhile():
    layer = torch.nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    with _frozen(layer):
        assert not layer.weight.requires_grad
    assert layer.weight.requires_grad and not layer.bias.requires_grad


def test_counts_of_the_operators():
    # 2 images, 10 queries, 8 heads, 3 levels, 4 points, 16 channels; 5 multiply-adds each
    assert _deformable_flops((2, 100, 8, 16), None, (2, 10, 8, 3, 4, 2), (2, 10, 8, 3, 4)) == 2 * 5 * 1920 * 16
    assert _neighborhood_flops((1, 2, 5, 6, 8), None, None, 3) == 4 * (2 * 5 * 6 * 8) * 9
    scores, sums, products = 2 * 3 * 5 * 4 * 6, 2 * 3 * 5 * 6, 2 * 3 * 5 * 4 * (2 + 3)
    assert _grid_flops((1, 3, 5, 4), (1, 3, 6, 4), (2, 3, 4), (3, 3, 4)) == scores + sums + products
    assert _linear_flops((2, 10, 16), (32, 16), None) == 2 * (2 * 10 * 16) * 32


def test_impossible_sizes():
    with pytest.raises(ValueError, match="expected at least 1"):
        measure_cost(compact_model(), (0, 5))

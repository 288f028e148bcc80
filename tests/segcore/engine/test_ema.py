"""The average of the weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segcore.engine.ema import WeightAverage, load_average
from tests.segcore.toy import toy_trainer


def test_average_by_hand():
    model = nn.Linear(1, 1, bias=False)
    average = WeightAverage(model, decay=0.5)
    expected = None
    for step, value in enumerate([1.0, 5.0, 2.0]):
        model.weight.data.fill_(value)
        average.update_parameters(model)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = value if expected is None else decay * expected + (1 - decay) * value
    assert average.module.weight.item() == pytest.approx(expected)


def test_average_copies_buffers():
    model = nn.BatchNorm1d(2)
    average = WeightAverage(model, decay=0.9)
    for _ in range(3):
        model(torch.randn(4, 2) + 3)
        average.update_parameters(model)
    assert torch.equal(average.module.running_mean, model.running_mean)
    assert int(average.module.num_batches_tracked) == 3


def test_average_is_saved_and_evaluated(tmp_path, monkeypatch):
    evaluated = []
    monkeypatch.setattr("segcore.engine.trainer.evaluate", lambda cfg, model: evaluated.append(model) or {})
    trainer = toy_trainer(tmp_path, "SOLVER.EMA.ENABLED", True, "DATASETS.TEST", "('toy_train',)")
    trainer.train()
    assert evaluated == [trainer.average.module]
    saved = torch.load(tmp_path / "model_final.pth", weights_only=True)
    other = toy_trainer(tmp_path / "other").model
    load_average(other, saved["ema"])
    for name, value in other.state_dict().items():
        assert torch.equal(value, trainer.average.module.state_dict()[name])
    assert not torch.equal(saved["model"]["head.weight"], other.head.weight)


def test_an_average_of_another_model_is_refused():
    average = WeightAverage(nn.Linear(2, 2, bias=False), 0.9)
    with pytest.raises(ValueError, match="lack bias"):
        load_average(nn.Linear(2, 2), average.state_dict())

"""Exporting refuses what it cannot do well, and leaves nothing half made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from segcore import export
from tests.exporting import require_torch


def graph(module: nn.Module | None = None) -> export.Graph:
    class Halve(nn.Module):
        def forward(self, x):
            return (x / 2,)

    return export.Graph((module or Halve()).eval(), {"x": torch.ones(2, 3)}, ["half"])


def test_difference_is_relative_to_large_outputs_only():
    wanted = {"a": np.array([0.1]), "b": np.array([100.0])}
    assert export.largest_difference([np.array([0.1]), np.array([101.0])], wanted) == pytest.approx(0.01)
    assert export.largest_difference([np.array([0.2]), np.array([100.0])], wanted) == pytest.approx(0.1)


@pytest.mark.parametrize("found", [np.zeros(3), np.array([np.nan])])
def test_difference_refuses_other_shapes_and_nan(found: np.ndarray):
    with pytest.raises(ValueError, match="output 'a'"):
        export.largest_difference([found], {"a": np.zeros(1)})


def test_a_file_that_differs_is_not_kept(tmp_path: Path):
    def load(path):
        return lambda inputs: [inputs["x"].numpy()]

    with pytest.raises(ValueError, match="was not written"):
        export._write_checked(graph(), tmp_path / "a.onnx", ".onnx", lambda path: path.write_text("x"), load)
    assert not list(tmp_path.iterdir())


def test_a_wrong_suffix_is_refused(tmp_path: Path):
    require_torch()
    with pytest.raises(ValueError, match="must end in .pt2"):
        export.export_package(graph(), tmp_path / "a.onnx")


def test_a_model_in_training_mode_is_refused():
    training = graph()
    training.module.train()
    with pytest.raises(ValueError, match="call eval"):
        training.capture()

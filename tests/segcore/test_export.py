"""Exporting refuses what it cannot do well, and leaves nothing half made."""

from __future__ import annotations

from dataclasses import replace
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
    assert export.difference([np.array([0.1]), np.array([101.0])], wanted).largest == pytest.approx(0.01)
    assert export.difference([np.array([0.2]), np.array([100.0])], wanted).largest == pytest.approx(0.1)


@pytest.mark.parametrize("found", [np.zeros(3), np.array([np.nan])])
def test_difference_refuses_other_shapes_and_nan(found: np.ndarray):
    with pytest.raises(ValueError, match="output 'a'"):
        export.difference([found], {"a": np.zeros(1)})


def test_difference_of_one_number_in_a_hundred():
    found = export.difference([np.r_[0.5, np.full(99, 1e-6)]], {"a": np.zeros(100)})
    assert found.largest == 0.5 and found.most == pytest.approx(1e-6)


def check(path: Path, others: list, halve) -> export.Difference:
    """What the check of a file that computes `halve` finds."""
    whole = replace(graph(), others=others)
    return export._write_checked(whole, path, ".onnx", lambda path: path.write_text("x"),
                                 lambda path: lambda inputs: [halve(inputs["x"].numpy())])


def test_a_file_that_differs_is_not_kept(tmp_path: Path):
    with pytest.raises(ValueError, match="was not written"):
        check(tmp_path / "a.onnx", [], lambda x: x)
    with pytest.raises(ValueError, match="was not written"):  # right for the first input alone
        check(tmp_path / "a.onnx", [{"x": torch.ones(4, 3)}], lambda x: x / 2 if len(x) == 2 else x)
    assert not list(tmp_path.iterdir())


def test_a_single_decision_that_falls_the_other_way_is_told_not_refused(tmp_path: Path):
    def halve(x):
        x = x / 2
        x[20:, 0] += 0.1  # one of 63 numbers
        return x

    found = check(tmp_path / "a.onnx", [{"x": torch.ones(21, 3)}], halve)
    assert found.largest == pytest.approx(0.1) and found.most == 0
    assert (tmp_path / "a.onnx").exists()


def test_a_wrong_suffix_is_refused(tmp_path: Path):
    require_torch()
    with pytest.raises(ValueError, match="must end in .pt2"):
        export.export_package(graph(), tmp_path / "a.onnx")


def test_a_package_is_for_one_size(tmp_path: Path):
    require_torch()
    free = replace(graph(), free_axes={"x": {0: torch.export.Dim("rows")}})
    with pytest.raises(ValueError, match="compiled for one size"):
        export.export_package(free, tmp_path / "a.pt2")


@pytest.mark.slow
def test_a_package_minds_shape_type_and_strides(tmp_path: Path):
    """Its code does not: it would read the memory of another picture in its own order."""
    require_torch()
    export.export_package(graph(), tmp_path / "a.pt2")
    run = export.load_package(tmp_path / "a.pt2")
    turned = torch.arange(6.0).reshape(3, 2).T
    assert np.array_equal(run({"x": turned})[0], turned.numpy() / 2)
    for wrong in ({"x": torch.ones(2, 4)}, {"x": torch.ones(2, 3, dtype=torch.float64)}, {"y": torch.ones(2, 3)}):
        with pytest.raises(ValueError, match=r"compiled for .*float32 \[2, 3\]"):
            run(wrong)


def test_a_model_in_training_mode_is_refused():
    training = graph()
    training.module.train()
    with pytest.raises(ValueError, match="call eval"):
        training.capture()

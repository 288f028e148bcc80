"""The exported SegGPT gives the model's numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from segcore import export
from seggpt.export import seggpt_graph
from tests.exporting import require_onnx, require_torch
from tests.seggpt.small_seggpt import small_model


@pytest.fixture(scope="module")
def model():
    with torch.no_grad():
        return small_model(depth=4, out_blocks=(2, 3))


@pytest.mark.parametrize("seg_type", ["semantic", "instance"])
def test_the_graph_is_the_plain_form(model, seg_type: str):
    """One prompt and one query, against whole canvases painted by `inpaint`."""
    graph = seggpt_graph(model, 1, seg_type)
    prompt, painting, query = (model.normalize(picture) for picture in graph.inputs.values())
    mask = torch.zeros(1, (model.img_size[0] // 16) * (model.img_size[1] // 16))
    mask[:, mask.shape[1] // 2:] = 1
    with torch.no_grad():
        canvas = model.inpaint(torch.cat([prompt, query], 2), torch.cat([painting, query], 2), mask,
                               torch.tensor([["semantic", "instance"].index(seg_type)]))
        expected = model.denormalize(canvas[:, :, model.img_size[0] // 2:])
    assert export.difference(list(graph.run().values()), {"paintings": expected.numpy()}).largest < 1e-4


def test_onnx(model, tmp_path: Path):
    require_onnx()
    export.export_onnx(seggpt_graph(model, 2), tmp_path / "a.onnx")
    other = seggpt_graph(model, 2, seed=1)
    found = export.load_onnx(tmp_path / "a.onnx")(other.inputs)
    assert export.difference(found, other.run()).largest < export.TOLERANCE


@pytest.mark.slow
def test_package(model, tmp_path: Path):
    require_torch()
    export.export_package(seggpt_graph(model, 2), tmp_path / "a.pt2")
    other = seggpt_graph(model, 2, seed=1)
    found = export.load_package(tmp_path / "a.pt2")(other.inputs)
    assert export.difference(found, other.run()).largest < export.TOLERANCE

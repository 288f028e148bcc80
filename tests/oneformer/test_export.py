"""The exported OneFormer gives the model's numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

import oneformer.modeling  # noqa: F401  registers the model
from oneformer import add_oneformer_config
from oneformer.export import oneformer_graph
from oneformer.loading import build_loaded
from oneformer.tasks import TASKS
from segcore import export
from tests.exporting import require_onnx, require_torch

CONFIGS = ["configs/ade20k/oneformer_r50.yaml", "configs/ade20k/oneformer_swin_t.yaml"]
COMPACT = "configs/facade/oneformer_compact.yaml"
# Fewer layers of each kind: what an exporter meets is the same, and it is done in a third of the time.
SHALLOW = ["MODEL.ONE_FORMER.DEC_LAYERS", 2, "MODEL.ONE_FORMER.CLASS_DEC_LAYERS", 1,
           "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", 1, "MODEL.SWIN.DEPTHS", [2, 2, 2, 2]]


@pytest.fixture(scope="module")
def bundled():
    return build_loaded(device="cpu").model


def random_model(repo: Path, config: str, *opts):
    cfg = get_cfg()
    add_oneformer_config(cfg)
    cfg.merge_from_file(str(repo / config))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.IS_TRAIN", False, "MODEL.WEIGHTS", "", *opts])
    torch.manual_seed(0)
    return build_model(cfg).eval()


def check_every_task(model, run, size: tuple[int, int]) -> None:
    for seed, task in enumerate(TASKS):
        graph = oneformer_graph(model, *size, task, seed=seed)
        assert export.difference(run(graph.inputs), graph.run()).largest < export.TOLERANCE, task


def test_the_graph_is_the_model(bundled):
    """Against `predict_queries`, for an image of every task; equal up to the operators' rounding."""
    for task in TASKS:
        graph = oneformer_graph(bundled, 64, 96, task)
        with torch.no_grad():
            expected = bundled.predict_queries([{"image": graph.inputs["image"][0], "task": task}])
        wanted = {"class_logits": expected["pred_logits"].numpy(), "mask_logits": expected["pred_masks"].numpy()}
        assert export.difference(list(graph.run().values()), wanted).largest < 1e-3


def test_onnx_of_the_bundled_model(bundled, tmp_path: Path):
    require_onnx()
    path = tmp_path / "oneformer.onnx"
    export.export_onnx(oneformer_graph(bundled, 64, 96), path)
    check_every_task(bundled, export.load_onnx(path), (64, 96))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert str(Path(export.__file__).parent).encode() not in path.read_bytes(), "it tells where it was made"


def check_every_size(model, path: Path, form: str = "fp32") -> None:
    """A file for any size, at sizes that its own check did not see."""
    graph = oneformer_graph(model, 128, 96, any_size=True).storing_weights(form)
    export.export_onnx(graph, path)
    run = export.load_onnx(path)
    for seed, size in enumerate([(64, 160), (192, 96), (160, 160)]):
        other = oneformer_graph(model, *size, "semantic", seed=seed)
        assert export.difference(run(other.inputs), graph.run(other.inputs)).largest < export.TOLERANCE, size


def test_one_onnx_file_for_any_size_with_int8_weights(repo: Path, tmp_path: Path):
    """And it holds a byte, not four, for each weight of a layer."""
    require_onnx()
    model = random_model(repo, COMPACT, *SHALLOW)
    check_every_size(model, tmp_path / "a.onnx", "int8")
    assert (tmp_path / "a.onnx").stat().st_size < 0.35 * sum(4 * weight.numel() for weight in model.parameters())


def test_rounded_weights_leave_the_task_alone(bundled):
    """Raw token ids of tens of thousands go into the task's layers: rounding those would move every query."""
    graph = oneformer_graph(bundled, 64, 64)
    stored = graph.storing_weights("int8")
    assert torch.equal(stored.module.task_embeddings, bundled.embed_tasks(TASKS))


def test_a_file_for_any_size_starts_from_two_units(bundled):
    with pytest.raises(ValueError, match="at least 64x64, got 32x64"):
        oneformer_graph(bundled, 32, 64, any_size=True)


def test_a_size_that_does_not_fit_is_refused(bundled):
    with pytest.raises(ValueError, match="multiples of 32, got 60x96; 64x96 would do"):
        oneformer_graph(bundled, 60, 96)


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_onnx_of_a_configuration(repo: Path, tmp_path: Path, config: str):
    require_onnx()
    model = random_model(repo, config)
    export.export_onnx(oneformer_graph(model, 128, 160), tmp_path / "a.onnx")
    check_every_task(model, export.load_onnx(tmp_path / "a.onnx"), (128, 160))


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_one_onnx_file_of_a_configuration_for_any_size(repo: Path, tmp_path: Path, config: str):
    require_onnx()
    check_every_size(random_model(repo, config, *SHALLOW), tmp_path / "a.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_package_of_a_configuration(repo: Path, tmp_path: Path, config: str):
    require_torch()
    model = random_model(repo, config)
    export.export_package(oneformer_graph(model, 128, 160), tmp_path / "a.pt2")
    check_every_task(model, export.load_package(tmp_path / "a.pt2"), (128, 160))


@pytest.mark.slow
def test_package_of_the_bundled_model(bundled, tmp_path: Path):
    require_torch()
    export.export_package(oneformer_graph(bundled, 64, 96), tmp_path / "a.pt2")
    check_every_task(bundled, export.load_package(tmp_path / "a.pt2"), (64, 96))

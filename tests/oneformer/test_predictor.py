"""The predictor: what the model says, for any picture, and one clear error for what it cannot do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from safetensors.torch import save_file

from oneformer import OneFormerPredictor
from segcore.checkpoint import bundled
from segcore.ops import precision
from segcore.ops.fastest import fastest
from tests.pictures import photograph, tiny_config, tiny_model, tiny_weights


@pytest.fixture(scope="module")
def weights(repo, tmp_path_factory) -> Path:
    return tiny_weights(repo, tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture(scope="module")
def predictor(weights) -> OneFormerPredictor:
    return OneFormerPredictor(weights=weights, device="cpu", confidence=0.0)


def same(a, b, flips: float = 0.0) -> None:
    """The two predictions are equal where both hold a result, but for a part `flips` of the pixels."""
    assert a.size == b.size
    if a.panoptic and b.panoptic:
        assert (a.panoptic.ids != b.panoptic.ids).mean() <= flips
        assert [s.name for s in a.panoptic.segments] == [s.name for s in b.panoptic.segments]
    if a.instance and b.instance:
        assert (a.instance.masks != b.instance.masks).mean() <= flips
        np.testing.assert_allclose(a.instance.scores, b.instance.scores, rtol=1e-4, atol=1e-6)
        assert a.instance.names == b.instance.names
    if a.semantic and b.semantic:
        assert (a.semantic.labels != b.semantic.labels).mean() <= flips


# ---------------------------------------------------------------- results


def test_results_are_those_of_the_model(predictor):
    image = photograph(40, 60)
    found = predictor(image, "all")
    x = {**predictor._input(image, "all"), "semantic_labels": False}
    with torch.no_grad(), fastest():
        threshold, predictor.model.object_threshold = predictor.model.object_threshold, 0.0
        output = predictor.model([x])[0]
        predictor.model.object_threshold = threshold
    np.testing.assert_array_equal(found.panoptic.ids, output["panoptic_seg"][0].numpy())
    differs = found.semantic.labels != output["sem_seg"].argmax(0).numpy()
    top = output["sem_seg"].topk(2, dim=0).values.numpy()
    assert (top[0] - top[1])[differs].max(initial=0) < 1e-5 and differs.mean() < 1e-3  # ties of rounding
    occupied = output["instances"].pred_masks.flatten(1).any(1)
    np.testing.assert_array_equal(found.instance.masks, output["instances"].pred_masks[occupied].numpy())
    assert found.panoptic.segments and len(found.instance)  # else the comparison says nothing
    for segment in found.panoptic.segments:
        assert segment.area == (found.panoptic.ids == segment.id).sum()
        assert segment.name == predictor.classes.names[segment.class_index]
        assert segment.isthing == (segment.name in ("car", "door", "window"))


def test_all_is_the_three_tasks(predictor):
    image = photograph(50, 33)
    together = predictor(image, "all")
    for task in ("panoptic", "instance", "semantic"):
        alone = predictor(image, task)
        same(alone, together)
        held = [name for name in ("panoptic", "instance", "semantic") if getattr(alone, name) is not None]
        assert held == [task]


def test_a_picture_gets_the_same_result_in_a_batch(predictor):
    images = [photograph(40, 60), photograph(64, 20), photograph(40, 60)[:, ::-1]]
    for single, batched in zip([predictor(i, "all") for i in images], predictor.batch(images, "all")):
        same(single, batched, flips=0.01)  # a convolution over two images sums in another order
    assert predictor.batch([], "all") == []


@pytest.mark.parametrize("size", [(1, 1), (5000, 33), (33, 5000), (1, 700)])
def test_extreme_sizes(predictor, size):
    found = predictor(photograph(*size), "all")
    assert found.panoptic.ids.shape == found.semantic.labels.shape == found.instance.masks.shape[1:] == size


def test_the_model_sees_rgb_once(predictor, monkeypatch):
    """Upstream's demo turned RGB into BGR by flipping twice (asks B9)."""
    seen = []
    monkeypatch.setattr(predictor, "_run", lambda inputs, _: seen.extend(inputs) or [{}])
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 200
    predictor(red, "semantic")
    assert [int(channel.float().mean()) for channel in seen[0]["image"]] == [200, 0, 0]
    monkeypatch.setattr(predictor, "_channel_order", "BGR")
    predictor(red, "semantic")
    assert [int(channel.float().mean()) for channel in seen[1]["image"]] == [0, 0, 200]


def test_confidence(predictor):
    image = photograph(40, 60)
    everything = predictor(image, "all")
    cut = float(np.median(everything.instance.scores))
    sure = predictor(image, "all", confidence=cut)
    assert 0 < len(sure.instance) < len(everything.instance)
    assert sure.instance.scores.min() >= cut
    nothing = predictor(image, "all", confidence=1.0)
    assert len(nothing.instance) == 0 and nothing.panoptic.segments == [] and not nothing.panoptic.ids.any()
    same(predictor(image, "all"), everything)  # one call's threshold is not the next one's


def test_config_and_weights_apart(repo, weights, predictor, tmp_path):
    """A .pth with its config: the same model, built the usual way."""
    cfg = tiny_config(repo)
    path = tmp_path / "model.pth"
    torch.save({"model": tiny_model(cfg).state_dict()}, path)
    found = OneFormerPredictor(cfg, path)(photograph(40, 60), "all")
    assert found.semantic.names == predictor.classes.names
    cfg.MODEL.WEIGHTS = str(path)
    same(found, OneFormerPredictor(cfg)(photograph(40, 60), "all"))


def test_classes_are_registered_once(weights):
    first = OneFormerPredictor(weights=weights, device="cpu")
    names = set(MetadataCatalog.list())
    second = OneFormerPredictor(weights=weights, device="cpu")
    assert set(MetadataCatalog.list()) == names
    assert first.classes == second.classes
    assert first.terms == "none: random numbers"
    # Under a name of their own: the data set's entry is not touched.
    assert any(name.startswith("classes_of_weights_") for name in names)


# ---------------------------------------------------------------- how it runs


def test_rounded_products(weights, predictor, monkeypatch):
    """Nearly the same; the task's token, which has numbers beyond bfloat16, is not rounded at all."""
    monkeypatch.setattr(precision, "_SMALLEST", 1)
    rounded = OneFormerPredictor(weights=weights, device="cpu", confidence=0.0, precision="bf16")
    image = photograph(96, 128)

    def masks(of):
        monkeypatch.setattr(of, "_runner", lambda inputs: seen.append(of.model.predict_queries(inputs)) or [{}])
        seen: list[dict] = []
        of(image, "panoptic")
        return seen[0]["pred_masks"], of.model.embed_tasks(["panoptic", "semantic"])

    (exact, exact_task), (near, task) = masks(predictor), masks(rounded)
    error = (near - exact).abs().mean() / exact.abs().mean()
    assert 1e-5 < error < 0.1
    with rounded._precision:
        assert torch.equal(rounded.model.embed_tasks(["panoptic", "semantic"]), exact_task)
    assert torch.equal(task, exact_task)


def test_compiled_parts_are_the_models(weights, predictor, monkeypatch):
    compiled = []
    monkeypatch.setattr("oneformer.predictor.compile_parts", compiled.append)
    asked = OneFormerPredictor(weights=weights, device="cpu", compiled=True)
    assert compiled == [asked.model]


def test_masks_are_not_copied_where_all_are_wanted(predictor):
    """At 4000 x 6000 each costs 24 MB."""
    found = Instances((4, 5))
    found.pred_masks = torch.zeros(2, 4, 5, dtype=torch.bool)
    found.pred_masks[:, 1:3, 2] = True
    found.pred_boxes = Boxes(torch.tensor([[2.0, 1, 3, 3], [2, 1, 3, 3]]))
    found.scores, found.pred_classes = torch.tensor([0.9, 0.6]), torch.tensor([1, 0])
    assert np.shares_memory(predictor._instances(found, 0.5).masks, found.pred_masks.numpy())
    assert len(predictor._instances(found, 0.7)) == 1
    found.pred_boxes.tensor[1] = 0
    assert len(predictor._instances(found, 0.5)) == 1   # no pixel, no object


# ---------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("image", "task", "confidence", "message"),
    [
        (photograph(4, 4), "panoptik", None, "unknown task 'panoptik'; choose one of panoptic"),
        (photograph(4, 4), "all", 1.5, "confidence must be between 0 and 1, got 1.5"),
        (photograph(4, 4).astype(np.float32), "all", None, r"got float32 \(4, 4, 3\)"),
        (photograph(4, 4)[..., 0], "all", None, r"got uint8 \(4, 4\)"),
        (photograph(0, 4), "all", None, r"with pixels, got uint8 \(0, 4, 3\)"),
        ("street.jpg", "all", None, "got str; segcore.data.photo.read_photo reads one"),
    ],
)
def test_bad_calls(predictor, image, task, confidence, message):
    with pytest.raises(ValueError, match=message):
        predictor(image, task, confidence=confidence)


def test_no_bundled_weights(monkeypatch, tmp_path):
    monkeypatch.setattr(bundled, "FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match="there are no bundled weights"):
        OneFormerPredictor()


def test_bundled_weights_are_the_default(monkeypatch, tmp_path, weights):
    (tmp_path / "oneformer_x.safetensors").write_bytes(weights.read_bytes())
    monkeypatch.setattr(bundled, "FOLDER", tmp_path)
    assert OneFormerPredictor(device="cpu").weights == str(tmp_path / "oneformer_x.safetensors")


def test_unusable_weights(repo, weights, tmp_path):
    torn, other, plain = tmp_path / "torn.safetensors", tmp_path / "other.pth", tmp_path / "plain.safetensors"
    torn.write_bytes(weights.read_bytes()[:5000])
    torch.save({"layer1.weight": torch.zeros(3)}, other)
    save_file({"x": torch.zeros(3)}, plain)
    cfg = tiny_config(repo)
    for path, error, message in [
        (tmp_path / "none.safetensors", FileNotFoundError, "none.safetensors"),
        (tmp_path / "none.pth", FileNotFoundError, "no weights at"),
        (torn, ValueError, "cannot read the weights .*torn"),
        (plain, ValueError, "has no config inside"),
        (other, ValueError, "do not hold their config; give the config"),
        ("hf:org/name", OSError, "cannot fetch org/name"),  # tests are offline
        (tmp_path, ValueError, "do not hold their config; give the config"),
    ]:
        with pytest.raises(error, match=message):
            OneFormerPredictor(weights=path, device="cpu")
    with pytest.raises(ValueError, match="another architecture"):
        OneFormerPredictor(cfg, other)
    with pytest.raises(ValueError, match="WEIGHTS is empty"):
        OneFormerPredictor(cfg)


def test_a_part_of_a_model_is_refused(repo, tmp_path):
    """A backbone alone loads for training; predicting with a random head would be noise."""
    cfg = tiny_config(repo)
    state = tiny_model(cfg).state_dict()
    torch.save({k: v for k, v in state.items() if k.startswith("backbone.")}, tmp_path / "backbone.pth")
    with pytest.raises(ValueError, match=r"are no whole model: .* tensors are missing"):
        OneFormerPredictor(cfg, tmp_path / "backbone.pth")


def test_other_classes_are_refused(repo, weights):
    with pytest.raises(ValueError, match=r"NUM_CLASSES 5, but .* has 8 classes"):
        OneFormerPredictor(weights=weights, device="cpu", opts=["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "5"])
    cfg = tiny_config(repo)
    cfg.merge_from_list(
        ["DATASETS.TEST", "('coco_2017_val_panoptic_with_sem_seg',)", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "133"]
    )
    with pytest.raises(ValueError, match="tell 8 classes apart, the config 133"):
        OneFormerPredictor(cfg, weights)


def test_wrong_settings(weights, tmp_path):
    with pytest.raises(ValueError, match=r"unknown config key .*MODEL.TEST.OVERLAP_TRESHOLD \(did you mean"):
        OneFormerPredictor(weights=weights, opts=["MODEL.TEST.OVERLAP_TRESHOLD", "0.5"])
    with pytest.raises(ValueError, match=r"config file .* does not exist"):
        OneFormerPredictor(tmp_path / "none.yaml", weights)
    with pytest.raises(ValueError, match="unknown device 'gpu'"):
        OneFormerPredictor(weights=weights, device="gpu")
    with pytest.raises(ValueError, match="confidence must be"):
        OneFormerPredictor(weights=weights, confidence=-1)
    with pytest.raises(ValueError, match="precision is 'half'; expected one of fp32, bf16"):
        OneFormerPredictor(weights=weights, precision="half")
    with pytest.raises(ValueError, match="do not combine"):
        OneFormerPredictor(weights=weights, device="cpu", precision="bf16", compiled=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_cuda_where_there_is_none(weights):
    with pytest.raises(ValueError, match="PyTorch finds no CUDA device"):
        OneFormerPredictor(weights=weights, device="cuda")

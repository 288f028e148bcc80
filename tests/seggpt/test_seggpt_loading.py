"""Weights from every source; what is refused, and how."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from safetensors.torch import save_file

from seggpt import SegGPTPredictor, add_seggpt_config
from seggpt.convert import huggingface_config, to_huggingface
from seggpt.loading import build_loaded, load_weights
from tests.seggpt.small_seggpt import SMALL, small_model

FULL = {"pretrain_img_size": 224, "patch_size": 16, "mlp_ratio": 4.0, "merge_block": 2, "drop_path_rate": 0.1,
        **SMALL}


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_seggpt_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "SegGPT"
    for key, value in SMALL.items():
        cfg.MODEL.SEGGPT[key.upper()] = list(value) if isinstance(value, tuple) else value
    return cfg


def same(model, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values()))


def test_released_files(cfg, model, tmp_path):
    torch.save({"model": model.state_dict()}, tmp_path / "seggpt.pth")
    assert same(build_loaded(cfg, tmp_path / "seggpt.pth", "cpu"), model)
    cfg.MODEL.WEIGHTS = str(tmp_path / "seggpt.pth")
    (tmp_path / "small.yaml").write_text(cfg.dump())
    predictor = SegGPTPredictor(tmp_path / "small.yaml", device="cpu")
    assert same(predictor.model, model) and not predictor.model.training


def test_painters_file_only_on_request(cfg, model, tmp_path):
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("type_token")}
    torch.save({"model": state}, tmp_path / "painter.pth")
    with pytest.raises(ValueError, match="Painter checkpoint: it has no type_token_cls"):
        build_loaded(cfg, tmp_path / "painter.pth", "cpu")
    fresh = small_model()
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.zero_()
    load_weights(fresh, tmp_path / "painter.pth", painter=True)
    assert torch.equal(fresh.mask_token, model.mask_token) and not fresh.type_token_ins.any()


@pytest.mark.parametrize("dropped", ["norm.weight", "norm.", "mask_token"])
def test_incomplete_files_are_refused(cfg, model, tmp_path, dropped):
    state = {k: v for k, v in model.state_dict().items() if not k.startswith(dropped)}
    torch.save({"model": state}, tmp_path / "cut.pth")
    with pytest.raises(ValueError, match=dropped.rstrip(".")):
        build_loaded(cfg, tmp_path / "cut.pth", "cpu")


def test_weights_of_another_size_are_refused(model, tmp_path):
    torch.save({"model": model.state_dict()}, tmp_path / "small.pth")
    with torch.device("meta"), pytest.raises(ValueError, match="mask_token"):
        load_weights(type(model)(), tmp_path / "small.pth")


def test_hugging_face_folder_brings_its_config(model, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(huggingface_config(FULL)))
    save_file(to_huggingface(model.state_dict()), tmp_path / "model.safetensors")
    loaded = build_loaded(None, tmp_path, "cpu")
    assert same(loaded, model) and loaded.out_blocks == (3, 5, 6, 7)


def test_a_folder_saved_by_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.SegGptForImageSegmentation(transformers.SegGptConfig(**huggingface_config(FULL)))
    theirs.save_pretrained(tmp_path)
    loaded = build_loaded(None, tmp_path, "cpu")
    assert torch.equal(loaded.norm.weight, theirs.model.encoder.layernorm.weight)
    assert torch.equal(loaded.mask_token, theirs.model.embeddings.mask_token)


def test_no_weights_and_wrong_configs_are_refused(cfg, tmp_path, monkeypatch):
    monkeypatch.setattr("segcore.checkpoint.bundled.FOLDER", tmp_path)
    with pytest.raises(ValueError, match="no weights"):
        build_loaded(cfg)
    with pytest.raises(FileNotFoundError, match=r"no seggpt\*\.safetensors"):
        build_loaded()
    with pytest.raises(FileNotFoundError, match="no config file"):
        build_loaded(tmp_path / "none.yaml", "x.pth")
    with pytest.raises(FileNotFoundError, match="no weights at"):
        build_loaded(cfg, tmp_path / "none.pth")
    (tmp_path / "other.yaml").write_text("MODEL: {META_ARCHITECTURE: GeneralizedRCNN}\nVERSION: 2\n")
    with pytest.raises(ValueError, match="not for SegGPT"):
        build_loaded(tmp_path / "other.yaml", "x.pth")
    (tmp_path / "keys.yaml").write_text("MODEL: {SEGGPT: {DEEP: 3}}\nVERSION: 2\n")
    with pytest.raises(ValueError, match="DEEP"):
        build_loaded(tmp_path / "keys.yaml", "x.pth")


def test_the_checkpointer_knows_the_formats(cfg, model, tmp_path):
    from detectron2.modeling import build_model

    from segcore.checkpoint import Checkpointer

    cfg.MODEL.DEVICE = "cpu"
    save_file(to_huggingface(model.state_dict()), Path(tmp_path) / "model.safetensors")
    built = build_model(cfg)
    Checkpointer(built).load(str(tmp_path / "model.safetensors"))
    assert same(built, model)

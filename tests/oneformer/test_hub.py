"""Publishing and fetching, with a folder in place of the hub; and torch.hub's entry points."""

from __future__ import annotations

import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import OneFormerForUniversalSegmentation

from oneformer import OneFormerPredictor
from oneformer.commands import main
from oneformer.hub import push_to_hub
from segcore.checkpoint import save_portable
from segcore.checkpoint.hub import PORTABLE_FILE, fetch_portable, push
from tests.oneformer.test_convert_hf import CLASSES, build, small_cfg
from tests.pictures import photograph, tiny_weights


@pytest.fixture(scope="module")
def weights(repo, tmp_path_factory) -> str:
    return str(tiny_weights(repo, tmp_path_factory.mktemp("weights") / "tiny.safetensors"))


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """A folder that takes what is uploaded and gives it back."""
    root = tmp_path / "hub"

    def create_repo(self, name, repo_type, private, exist_ok):
        (root / name).mkdir(parents=True, exist_ok=True)

    def upload_folder(self, repo_id, folder_path, repo_type, commit_message):
        shutil.copytree(folder_path, root / repo_id, dirs_exist_ok=True)
        return f"https://hub/{repo_id}"

    def download(name, file, revision=None):
        if not (root / name).is_dir():
            raise LocalEntryNotFoundError("no network")
        if not (root / name / file).is_file():
            raise huggingface_hub.errors.EntryNotFoundError("no such file")
        return str(root / name / file)

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return root


def test_what_was_pushed_is_loaded_by_its_name_alone(hub, weights):
    assert push_to_hub(weights, "org/tiny", transformers=False) == "https://hub/org/tiny"
    image = photograph(40, 60)
    ours = OneFormerPredictor(weights=weights, device="cpu")(image, "all")
    theirs = OneFormerPredictor(weights="hf:org/tiny", device="cpu")(image, "all")
    assert np.array_equal(ours.panoptic.ids, theirs.panoptic.ids)
    assert np.array_equal(ours.semantic.labels, theirs.semantic.labels)
    card = (hub / "org/tiny/README.md").read_text()
    assert "none: random numbers" in card and 'weights="hf:org/tiny"' in card and "transformers loads" not in card


def test_the_folder_is_one_that_transformers_loads(tmp_path, capsys):
    cfg = small_cfg()
    metadata = {"stuff_classes": list(CLASSES), "stuff_colors": [(9, 9, 9)] * len(CLASSES)}
    weights = str(tmp_path / "swin.safetensors")
    save_portable(build(cfg), cfg, weights, metadata=metadata, terms="random", dtype=torch.float32)
    assert main(["push", "--weights", weights, "--folder", str(tmp_path / "up"), "--to", "org/swin"]) == 0
    assert f"wrote {tmp_path / 'up'}" in capsys.readouterr().out
    model = OneFormerForUniversalSegmentation.from_pretrained(tmp_path / "up")
    assert list(model.config.id2label.values()) == list(CLASSES)
    assert 'from_pretrained("org/swin")' in (tmp_path / "up" / "README.md").read_text()


def test_a_backbone_that_transformers_lacks(weights, tmp_path, capsys):
    assert main(["push", "--weights", weights, "--folder", str(tmp_path / "up")]) == 1
    assert "--no-transformers" in capsys.readouterr().err and not (tmp_path / "up").exists()
    assert main(["push", "--weights", weights, "--folder", str(tmp_path / "up"), "--no-transformers"]) == 0
    assert sorted(p.name for p in (tmp_path / "up").iterdir()) == ["README.md", PORTABLE_FILE]


def test_wrong_names_and_places(hub, weights, tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match=PORTABLE_FILE):
        push(tmp_path, "org/name")
    (tmp_path / PORTABLE_FILE).touch()
    with pytest.raises(ValueError, match="not of the form ORG/NAME"):
        push(tmp_path, "name")
    with pytest.raises(OSError, match="cannot fetch org/none from the Hugging Face hub"):
        fetch_portable("hf:org/none")
    (hub / "org/plain").mkdir(parents=True)
    with pytest.raises(ValueError, match="does not hold its config"):
        OneFormerPredictor(weights="hf:org/plain", device="cpu")
    with pytest.raises(SystemExit):
        main(["push", "--weights", weights])
    assert "give --to ORG/NAME" in capsys.readouterr().err


def test_torch_hub(repo, weights, monkeypatch, tmp_path):
    predictor = torch.hub.load(str(repo), "oneformer", source="local", weights=weights, device="cpu", confidence=0.3)
    assert isinstance(predictor, OneFormerPredictor) and predictor.confidence == 0.3
    monkeypatch.setattr("segcore.checkpoint.bundled.FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match="no bundled weights"):
        torch.hub.load(str(repo), "seggpt", source="local")

"""tools/export.py: what it refuses, and with which words, before anything is built or written."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from segcore import export
from tests.exporting import require_onnx, require_torch
from tests.seggpt.small_seggpt import SMALL, small_model

REPO = Path(__file__).resolve().parents[2]


def run(monkeypatch: pytest.MonkeyPatch, *arguments) -> None:
    spec = importlib.util.spec_from_file_location("export_tool", REPO / "tools" / "export.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["export.py", *map(str, arguments)])
    module.main()


def test_an_unknown_format(monkeypatch, tmp_path: Path):
    with pytest.raises(ValueError, match=r"must end in .onnx or .pt2, got .*a.tflite"):
        run(monkeypatch, "oneformer", "--size", 64, 64, "--output", tmp_path / "a.tflite")


def test_missing_weights(monkeypatch, tmp_path: Path):
    require_onnx()
    with pytest.raises(FileNotFoundError, match="no portable weights at"):
        run(monkeypatch, "oneformer", "--size", 64, 64, "--weights", tmp_path / "no.safetensors",
            "--output", tmp_path / "a.onnx")
    with pytest.raises(OSError, match=r"no\.safetensors"):
        run(monkeypatch, "seggpt", "--weights", tmp_path / "no.safetensors", "--output", tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_without_onnx_the_remedy_is_named(monkeypatch, tmp_path: Path):
    require_torch()
    find = importlib.util.find_spec
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(ImportError, match=r"needs onnxscript: pip install 'oneformer-seggpt\[export\]'"):
        run(monkeypatch, "oneformer", "--size", 64, 64, "--output", tmp_path / "a.onnx")


@pytest.mark.parametrize("size", [[], ["--size", 64, 64, "--any-size"], ["--size", 0, 64]])
def test_one_size_or_any_size(monkeypatch, tmp_path: Path, size: list, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, "oneformer", *size, "--output", tmp_path / "a.onnx")
    assert "--size" in capsys.readouterr().err


def test_a_size_that_does_not_fit(monkeypatch, tmp_path: Path):
    require_onnx()
    with pytest.raises(ValueError, match="multiples of 32, got 60x64; 64x64 would do"):
        run(monkeypatch, "oneformer", "--size", 60, 64, "--output", tmp_path / "a.onnx")


def test_seggpt_with_two_prompts_and_bf16_weights(monkeypatch, tmp_path: Path, capsys):
    """From the weights of a file to an ONNX file that takes as many prompts and pictures as were asked for."""
    require_onnx()
    import torch

    changes = {"depth": 4, "out_blocks": (2, 3)}
    with torch.no_grad():
        model = small_model(**changes)
    torch.save({"model": model.state_dict()}, tmp_path / "small.pth")
    lines = [f"    {key.upper()}: {list(value) if isinstance(value, tuple) else value}"
             for key, value in {**SMALL, **changes}.items()]
    (tmp_path / "small.yaml").write_text("MODEL:\n  META_ARCHITECTURE: SegGPT\n  SEGGPT:\n" + "\n".join(lines) + "\n")
    run(monkeypatch, "seggpt", "--config-file", tmp_path / "small.yaml", "--weights", tmp_path / "small.pth",
        "--prompts", 2, "--queries", 3, "--type", "semantic", "--weights-as", "bf16", "--output", tmp_path / "a.onnx")
    said = capsys.readouterr().out
    assert f"wrote {tmp_path / 'a.onnx'}" in said and "95% of the numbers within" in said
    pictures = {name: torch.rand(count, 3, 64, 64) * 255
                for name, count in (("prompt_images", 2), ("prompt_paintings", 2), ("images", 3))}
    (painting,) = export.load_onnx(tmp_path / "a.onnx")(pictures)
    assert painting.shape == (3, 3, 64, 64)

"""Looking at SegGPT's training samples: the command, and what a picture shows."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from segcore.data import builtin, inspect
from segcore.data.kinds import writer
from seggpt.data.inspect import draw_sample
from tests.conftest import REPO


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(writer, "SCENES", {"train": 10, "val": 1, "seen": 1})
    few = (1, 30, 60, 100, 333)
    monkeypatch.setattr(writer, "_SPLITS", {split: (i, few) for i, split in enumerate(writer._SPLITS)})
    monkeypatch.setattr(builtin, "_chosen_root", None)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "sets"))
    arguments = [str(REPO / "configs/seggpt/seggpt_mini.yaml"), "--output", str(tmp_path / "seen"), "--count", "3"]
    small = ["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "1"]
    assert inspect.main([*arguments, *small]) == 0
    pictures = sorted((tmp_path / "seen").iterdir())
    assert len(pictures) == 3 and all(Image.open(path).mode == "RGB" for path in pictures)
    assert capsys.readouterr().out.count("colours in the target") == 3
    arguments[2] = str(tmp_path / "questions")
    tuning = ["MODEL.META_ARCHITECTURE", "SegGPTTuner", "INPUT.DATASET_MAPPER_NAME", "seggpt_query"]
    assert inspect.main([*arguments, *small, *tuning]) == 0
    assert len(list((tmp_path / "questions").glob("*_question.png"))) == 3


def test_void_is_grey_and_hidden_squares_are_black():
    sample = {
        "image": torch.full((3, 32, 16), 7, dtype=torch.uint8),
        "target": torch.full((3, 32, 16), 200, dtype=torch.uint8),
        "valid": torch.ones(3, 32, 16, dtype=torch.uint8),
        "mask": torch.tensor([0, 0, 1, 1, 0, 0, 0, 1], dtype=torch.uint8),
        "seg_type": 1,
        "file_name": "a.png",
    }
    sample["valid"][:, 8:16, 8:] = 0
    picture = draw_sample(sample, patch=8)[-32:]
    image, target, shown = (picture[:, first : first + 16] for first in (0, 20, 40))
    assert (image == 7).all()
    void, hidden = np.zeros((32, 16), bool), np.zeros((32, 16), bool)
    void[8:16, 8:] = True
    hidden[8:16], hidden[24:, 8:] = True, True
    assert (target[void] == 128).all() and (target[~void] == 200).all()
    assert (shown[hidden & ~void] == 0).all() and (shown[~hidden & ~void] == 200).all()
    question = {key: sample[key] for key in ("image", "target", "valid", "file_name")}
    assert (draw_sample(question, patch=8)[-32:] == picture[:, :36]).all()

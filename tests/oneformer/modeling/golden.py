"""Reading the official goldens, and filling models with the weights they were made with."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import torch
from detectron2.config import get_cfg

from oneformer import add_oneformer_config

REPO = Path(__file__).resolve().parents[3]


def load_module(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def config(name: str, *options):
    """The config of configs/`name`.yaml, on the CPU."""
    cfg = get_cfg()
    add_oneformer_config(cfg)
    cfg.merge_from_file(str(REPO / "configs" / f"{name}.yaml"))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *options])
    return cfg


def fill_weights(model: torch.nn.Module, spec_dir: Path, profile: str = "fan") -> None:
    load_module(spec_dir / "oneformer" / "detweights.py").fill_(model.state_dict(), profile)


class Golden:
    """One .npz: arrays are flat strided samples of the tensors they stand for."""

    def __init__(self, path: Path):
        self.data = np.load(path)

    def __getitem__(self, key: str) -> np.ndarray:
        return self.data[key]

    def __contains__(self, key: str) -> bool:
        return key in self.data.files

    def json(self, key: str):
        return json.loads(str(self.data[key]))

    def differences(self, key: str, tensor: torch.Tensor) -> np.ndarray:
        """Absolute differences of the sample, after checking that the shape is the golden's."""
        meta = self.json(f"{key}|meta")
        assert list(tensor.shape) == list(meta["shape"]), f"{key}: {tuple(tensor.shape)} != {meta['shape']}"
        sample = tensor.detach().float().reshape(-1)[:: meta["step"]].numpy()
        return np.abs(sample - self.data[key])

    def max_difference(self, key: str, tensor: torch.Tensor) -> float:
        return float(self.differences(key, tensor).max())

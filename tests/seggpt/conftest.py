"""Fixtures of the SegGPT tests."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from small_seggpt import small_model

from seggpt.modeling import SegGPT


@pytest.fixture
def model() -> SegGPT:
    return small_model()


@pytest.fixture(scope="session")
def spec_dir() -> Path:
    path = Path(os.environ.get("SPEC_DIR", Path(__file__).parents[3] / "shared" / "spec"))
    if not path.is_dir():
        pytest.skip(f"reference values not found at {path}; set SPEC_DIR")
    return path


@pytest.fixture(scope="session")
def golden(spec_dir) -> dict[str, torch.Tensor]:
    with np.load(spec_dir / "seggpt" / "golden.npz") as arrays:
        return {k: torch.from_numpy(arrays[k]) for k in arrays.files}


@pytest.fixture(scope="session")
def golden_facts(spec_dir) -> dict:
    return json.loads((spec_dir / "seggpt" / "golden.json").read_text())

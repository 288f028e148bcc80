"""Fixtures of the SegGPT tests."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from seggpt.modeling import SegGPT
from tests.seggpt.small_seggpt import small_model


@pytest.fixture
def model() -> SegGPT:
    return small_model()


@pytest.fixture(scope="session")
def golden(spec_dir) -> dict[str, torch.Tensor]:
    with np.load(spec_dir / "seggpt" / "golden.npz") as arrays:
        return {k: torch.from_numpy(arrays[k]) for k in arrays.files}


@pytest.fixture(scope="session")
def golden_facts(spec_dir) -> dict:
    return json.loads((spec_dir / "seggpt" / "golden.json").read_text())

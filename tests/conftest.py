"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def spec_dir() -> Path:
    path = Path(os.environ.get("SPEC_DIR", Path(__file__).parents[2] / "shared" / "spec"))
    if not path.is_dir():
        pytest.skip(f"no goldens at {path}; set SPEC_DIR")
    return path

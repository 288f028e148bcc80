"""Fixtures and rules of the whole suite: where the goldens are, what is skipped when, no network."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported; without it every refusal waits for retries


def chromium() -> str | None:
    """The path of an installed Chromium, if there is one."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of this clone."""
    return REPO


@pytest.fixture(scope="session")
def spec_dir() -> Path:
    """The folder of full-size goldens (environment SPEC_DIR); tests that use it are skipped without it."""
    path = Path(os.environ.get("SPEC_DIR", REPO.parent / "shared" / "spec"))
    if not path.is_dir():
        pytest.skip(f"no full-size goldens at {path}; set SPEC_DIR")
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    reasons = {}
    if not torch.cuda.is_available():
        reasons["gpu"] = "no CUDA device"
    if importlib.util.find_spec("segcore._C") is None:
        reasons["ext"] = "segcore._C is not compiled"
    if chromium() is None:
        reasons["browser"] = "no Chromium here (Debian's package chromium)"
    elif importlib.util.find_spec("playwright") is None:
        reasons["browser"] = "playwright is not installed (pip install playwright)"
    for item in items:
        for marker, reason in reasons.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test reach this machine only: one that needs the network would pass here and fail elsewhere."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = str(address[0])
            if not (host.startswith("127.") or host in ("localhost", "::1", "0.0.0.0", socket.gethostname())):
                raise RuntimeError(f"a test tried to connect to {address}; default tests use no network")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)

"""Running code in a new Python process, as a user would, and under other limits than this one's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

Result = TypeVar("Result")

REPO = Path(__file__).resolve().parents[1]

# A finder ahead of all others that knows no detectron2: as if it were not installed.
BLOCK_DETECTRON2 = """
import sys
class _Block:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] == "detectron2":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, _Block)
"""


def run(code: str) -> subprocess.CompletedProcess:
    """Run code in the clone's root; stdout and stderr come back as text."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)


def check_on(capability: str, code: str) -> None:
    """Run code that asserts where PyTorch's and our own kernels are limited to an instruction set, such as "avx2"."""
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    subprocess.run([sys.executable, "-c", code], cwd=REPO, env=environment, check=True)


def on_threads(function: Callable[[], Result], counts: Sequence[int] = (1, 3, 8)) -> list[Result]:
    """What a function returns with each number of PyTorch's threads."""
    before, found = torch.get_num_threads(), []
    try:
        for count in counts:
            torch.set_num_threads(count)
            found.append(function())
    finally:
        torch.set_num_threads(before)
    return found


def run_without_detectron2(code: str) -> subprocess.CompletedProcess:
    """The same in an environment where Detectron2 cannot be found."""
    return run(BLOCK_DETECTRON2 + code)

"""Running code in a new Python process, as a user would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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


def run_without_detectron2(code: str) -> subprocess.CompletedProcess:
    """The same in an environment where Detectron2 cannot be found."""
    return run(BLOCK_DETECTRON2 + code)

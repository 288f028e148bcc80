"""The notebook runs from top to bottom on a CPU, and carries no outputs that may go stale."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def cells(repo) -> list[dict]:
    return json.loads((repo / "demo" / "tour.ipynb").read_text(encoding="utf-8"))["cells"]


def test_it_runs(repo, cells, tmp_path):
    pytest.importorskip("sklearn", reason="the notebook's photograph is in scikit-learn's wheel")
    pytest.importorskip("gradio", reason="the notebook finds SegGPT's weights as the page does")
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    (tmp_path / "tour.py").write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "tour.py")], cwd=repo / "demo", capture_output=True, text=True, check=False,
        env={**os.environ, "TOUR_OUTPUT": str(tmp_path / "out"), "PYTHONPATH": str(repo)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "sky" in done.stdout and (tmp_path / "out" / "cvat" / "panoptic" / "china.xml").is_file()


def test_it_is_a_notebook_without_outputs(cells):
    assert all(cell["cell_type"] in ("markdown", "code") and cell["id"] for cell in cells)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)

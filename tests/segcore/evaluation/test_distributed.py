"""Two processes with uneven shares, and images that a padding sampler repeats, measure what one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from segcore.evaluation import build_evaluator
from tests.segcore.evaluation.scenes import inputs, make

REPO = Path(__file__).resolve().parents[3]


def test_two_processes_equal_one_to_the_last_digit(tmp_path):
    shares = ("4,0,2,6,5", "1,3,0,4")  # out of order; 0 and 4 twice
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    command = [sys.executable, "-m", "tests.segcore.evaluation.gloo_worker"]
    workers = [
        subprocess.Popen(
            [*command, str(rank), "2", str(tmp_path), share],
            cwd=REPO,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, share in enumerate(shares)
    ]
    name, _, outputs = make(tmp_path / "one", 7)  # meanwhile, in one process
    evaluator = build_evaluator(name)
    evaluator.reset()
    for number, output in enumerate(outputs):
        evaluator.process([inputs(number)], [output])
    expected = json.dumps(evaluator.evaluate())
    assert json.loads(expected)["panoptic_seg"]["PQ"] > 5

    errors = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors
    assert (tmp_path / "result0.json").read_text() == expected
    assert (tmp_path / "result1.json").read_text() == "{}"

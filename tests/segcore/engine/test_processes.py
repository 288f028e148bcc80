"""Two processes train as one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.segcore.engine.runs import lines, without_dropout
from tests.segcore.toy import toy_process, toy_trainer

REPOSITORY = Path(__file__).resolve().parents[3]


def in_two_processes(folder) -> list[str]:
    """Run the toy's `main` in two forked processes with gloo; returns the error of each."""
    context = torch.multiprocessing.get_context("fork")  # starts at once: everything is imported already
    processes = [context.Process(target=toy_process, args=(str(folder), rank, 2)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
        process.kill()  # a deadlock is a failure, not a hang of the suite
    return [(folder / f"error_{rank}.txt").read_text() for rank in range(2)]


def test_two_processes_are_one(tmp_path):
    """The weights and curve of one process; then a NaN of one stops both with the same words."""
    errors = in_two_processes(tmp_path)
    one = without_dropout(toy_trainer(tmp_path / "one"))
    one.train()
    two = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    for name, value in one.model.state_dict().items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(lines(tmp_path), lines(tmp_path / "one"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)

    assert errors[0] == errors[1]
    assert "loss_square = nan on the images" in errors[0] and "picture_5.png" in errors[0]


@pytest.mark.slow
def test_torchrun_gives_the_ranks(tmp_path):
    """The command itself, under torchrun: both ranks build, share the batch, and one of them writes."""
    opts = ["MODEL.META_ARCHITECTURE", "ToySegmenter", "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path),
            "INPUT.DATASET_MAPPER_NAME", "ToyMapper", "DATASETS.TRAIN", "('toy_train',)",
            "SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "4", "DATASETS.TEST", "()",
            "DATALOADER.NUM_WORKERS", "0"]  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
               "-m", "tests.segcore.toy", *opts]  # fmt: skip
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "World size: 2" in (tmp_path / "log.txt").read_text()
    assert (tmp_path / "model_final.pth").exists()

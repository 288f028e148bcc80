"""Two gloo processes with sharded weights train as one process does, and their checkpoint is a whole one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm

from segcore.engine import ConfigError
from segcore.engine.setup import make_deterministic
from segcore.engine.sharding import is_sharded
from tests.segcore.toy import toy_config, toy_trainer

REPO = Path(__file__).resolve().parents[2]


def trainer(folder, *opts):
    made = toy_trainer(folder, *opts)
    model = made.model.module if hasattr(made.model, "module") else made.model
    model.drop.p = 0.0
    return made


def worker(rank: int, folder: str) -> None:
    """Train half of a run in two processes, then go on from its checkpoint."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    comm.create_local_process_group(2)
    options = ("SOLVER.PARALLEL", "fsdp", "SOLVER.CHECKPOINT_PERIOD", 3)
    first = trainer(folder, *options)
    assert is_sharded(first.model)
    first.max_iter = 3
    first.resume_or_load(resume=False)
    first.train()
    second = trainer(folder, *options)
    second.resume_or_load(resume=True)
    assert second.start_iter == 3
    second.train()
    dist.barrier()
    dist.destroy_process_group()


def test_sharded_training_is_the_same_training(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    command = [sys.executable, "-m", "tests.segcore.test_sharding"]
    workers = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path)], cwd=REPO, env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    alone = trainer(tmp_path / "one")
    alone.train()
    errors = [worker.communicate(timeout=300)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors
    saved = torch.load(tmp_path / "model_final.pth", weights_only=True)
    for name, value in alone.model.state_dict().items():
        assert type(saved["model"][name]) is torch.Tensor
        torch.testing.assert_close(saved["model"][name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("SOLVER.PARALLEL", "zero"), "expected 'ddp' or 'fsdp'"),
        (("SOLVER.PARALLEL", "fsdp", "SOLVER.EMA.ENABLED", True), "goes without SOLVER.EMA"),
        (("DETERMINISTIC", "yes"), "expected 'off', 'warn' or 'strict'"),
    ],
)
def test_settings_that_cannot_be(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        toy_config(tmp_path, *options)


def test_deterministic_operators(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        make_deterministic("off")
        assert not torch.are_deterministic_algorithms_enabled()
        make_deterministic("strict")
        assert torch.are_deterministic_algorithms_enabled() and os.environ["CUBLAS_WORKSPACE_CONFIG"]
        make_deterministic("warn")
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


if __name__ == "__main__":
    worker(int(sys.argv[1]), sys.argv[2])
    os._exit(0)

"""The SLURM launcher: a job that is ended goes on with --resume; a launch on this machine reaches train_net.py."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


def load():
    spec = importlib.util.spec_from_file_location("slurm_launcher", REPO / "tools" / "slurm.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_arguments_of_the_launcher_and_of_the_training_are_apart():
    args = load().parse_args(["--nodes", "2", "--", "--config-file", "c.yaml", "SOLVER.MAX_ITER", "5"])
    assert args.nodes == 2 and args.arguments == ["--config-file", "c.yaml", "SOLVER.MAX_ITER", "5"]


def test_an_ended_job_is_submitted_again_with_resume():
    submitit = pytest.importorskip("submitit")
    launcher = load()
    again = launcher.Training(["--config-file", "c.yaml"]).checkpoint()
    assert isinstance(again, submitit.helpers.DelayedSubmission)
    assert again.function.arguments == ["--resume", "--config-file", "c.yaml"]
    twice = again.function.checkpoint()
    assert twice.function.arguments == ["--resume", "--config-file", "c.yaml"]


def test_without_submitit_the_remedy_is_named(monkeypatch, capsys):
    launcher = load()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert launcher.main(["--", "x"]) == 2
    assert "pip install submitit" in capsys.readouterr().err


@pytest.mark.slow
def test_two_local_processes_train(tmp_path):
    pytest.importorskip("submitit")
    training = [
        *("--config-file", "configs/mini/oneformer_mini.yaml", "OUTPUT_DIR", str(tmp_path / "run")),
        *("MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", "2", "DATASETS.TEST", "()", "OUTPUT_WRITERS", "['json']"),
    ]
    command = [sys.executable, "tools/slurm.py", "--executor", "local", "--gpus", "0", "--processes", "2"]
    command += ["--logs", str(tmp_path / "logs"), "--", *training]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=1200)
    logs = "".join(path.read_text()[-2000:] for path in (tmp_path / "logs").glob("*.err"))
    assert done.returncode == 0, done.stderr[-2000:] + logs
    assert (tmp_path / "run" / "model_final.pth").is_file()
    assert "World size: 2" in (tmp_path / "run" / "log.txt").read_text()

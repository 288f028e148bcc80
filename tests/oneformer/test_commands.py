"""The console programs: what they list, how they end, that they are the demo's and train_net.py's own code."""

from __future__ import annotations

import importlib
import re
import runpy
from importlib import metadata
from types import SimpleNamespace

import pytest

import oneformer.commands
import seggpt.commands
from segcore.command import Command, run_commands

PROGRAMS = {"oneformer": oneformer.commands, "seggpt": seggpt.commands}


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_lists_every_command(name, capsys):
    for words in ([], ["--help"], ["help"]):
        assert PROGRAMS[name].main(words) == 0
        said = capsys.readouterr().out
        assert said.startswith(f"usage: {name} COMMAND") and "arXiv" in said
        assert all(re.search(rf"^  {command} +\S", said, re.MULTILINE) for command in PROGRAMS[name].COMMANDS)


@pytest.mark.parametrize(("name", "command"), [(n, c) for n, m in PROGRAMS.items() for c in m.COMMANDS])
def test_every_command_has_a_help_worth_reading(name, command, capsys):
    with pytest.raises(SystemExit) as stop:
        PROGRAMS[name].main([command, "--help"])
    said = capsys.readouterr().out
    assert stop.value.code == 0 and f"usage: {name} {command}" in said
    assert said.count(f"{name} {command} --") >= 2, "an example to copy"
    assert "{" + "prog}" not in said and "--" in said


def test_a_wrong_command(capsys):
    assert oneformer.commands.main(["segment"]) == 2
    assert "no command 'segment'; use one of predict, train, evaluate, push" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "status"), [
    (ValueError("wrong"), 1), (FileNotFoundError("gone"), 1), (ImportError("lacking"), 1), (KeyboardInterrupt(), 130),
])  # fmt: skip
def test_how_a_command_ends(monkeypatch, capsys, error, status):
    def fail(argv, prog):
        raise error

    monkeypatch.setattr(importlib, "import_module", lambda _: SimpleNamespace(main=fail))
    assert run_commands("p", "about", {"a": Command("does a", "m")}, ["a"]) == status
    assert "Traceback" not in capsys.readouterr().err


def test_train_and_evaluate_hand_over_their_words(monkeypatch):
    started = []
    monkeypatch.setattr("segcore.engine.command.start", lambda models, args: started.append((models, args)) or 0)
    assert oneformer.commands.main(["train", "--config-file", "c.yaml", "SOLVER.MAX_ITER", "5"]) == 0
    assert seggpt.commands.main(["evaluate", "--weights", "w.pth", "MODEL.DEVICE", "cpu"]) == 0
    (models, train), (others, evaluate) = started
    assert list(models) == ["OneFormer"] and list(others) == ["SegGPT", "SegGPTTuner"]
    assert (train.config_file, train.eval_only, train.opts) == ("c.yaml", False, ["SOLVER.MAX_ITER", "5"])
    assert evaluate.eval_only and evaluate.opts == ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "w.pth"]


def test_train_net_trains_with_the_same_functions(repo):
    script = runpy.run_path(str(repo / "train_net.py"))
    assert script["oneformer"] is importlib.import_module("oneformer.commands.train").load_model
    assert script["seggpt"] is importlib.import_module("seggpt.commands.train").load_model


def test_seggpt_asks_installed_finders(monkeypatch):
    from seggpt.commands import predict

    points = {"one": SimpleNamespace(name="one", load=lambda: lambda *a: ("one", a)),
              "two": SimpleNamespace(name="two", load=lambda: lambda *a: ("two", a))}
    groups = {predict.FINDERS: list(points.values())}
    monkeypatch.setattr(metadata, "entry_points", lambda group: groups.get(group, []))
    finders = predict.installed_finders()
    assert finders["one"]("cfg", "w", "cpu") == ("one", ("cfg", "w", "cpu")) and finders["two"]()[0] == "two"

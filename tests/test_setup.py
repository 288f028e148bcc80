"""setup.py's optional compilation: what happens when it fails, by the commands of a stand-in for torch's."""

from __future__ import annotations

import os
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import setuptools

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture
def setup_py(monkeypatch: pytest.MonkeyPatch) -> dict:
    """The names that setup.py defines, without building."""
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    monkeypatch.setenv("SEGCORE_EXT", "0")
    return runpy.run_path(str(REPO / "setup.py"))


def build_command(directory: Path, error: Exception | None) -> type:
    """A build command with one extension, whose older product exists, and that fails if `error` is given."""
    class Build:
        inplace = False

        def __init__(self) -> None:
            self.extensions = [SimpleNamespace(name="segcore._C")]

        def get_ext_fullpath(self, name: str) -> str:
            return str(directory / name)

        def build_extensions(self) -> None:
            if error is not None:
                raise error

    (directory / "segcore._C").write_bytes(b"older")
    return Build


@pytest.mark.parametrize("error", [
    RuntimeError("Error compiling objects for extension"),
    FileNotFoundError("no g++"),
    setuptools.errors.CompileError("g++ failed"),
])
def test_a_failed_build_leaves_the_extension_out_and_says_so(setup_py, tmp_path: Path, capsys, error):
    command = setup_py["tolerant"](build_command(tmp_path, error), False)()
    command.build_extensions()
    assert command.extensions == []
    assert not (tmp_path / "segcore._C").exists(), "a binary of older sources was left"
    assert str(error) in capsys.readouterr().err


def test_a_forced_build_that_fails_is_an_error(setup_py, tmp_path: Path):
    command = setup_py["tolerant"](build_command(tmp_path, RuntimeError("nvcc is missing")), True)()
    with pytest.raises(RuntimeError, match="nvcc is missing"):
        command.build_extensions()


def test_a_mistake_in_setup_py_is_not_hidden(setup_py, tmp_path: Path):
    command = setup_py["tolerant"](build_command(tmp_path, KeyError("typo")), False)()
    with pytest.raises(KeyError):
        command.build_extensions()


def test_a_good_build_is_kept(setup_py, tmp_path: Path):
    command = setup_py["tolerant"](build_command(tmp_path, None), False)()
    command.build_extensions()
    assert len(command.extensions) == 1
    assert os.listdir(tmp_path) == ["segcore._C"]


def test_no_compilation_when_told_so(setup_py, capsys):
    assert setup_py["compiled_operators"]() == {}
    assert "SEGCORE_EXT=0" in capsys.readouterr().err

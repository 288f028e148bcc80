"""The wheel that install_detectron2 builds, from a small stand-in for LabGym's wheel, and its errors."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from segcore import install_detectron2 as tool

REPO = Path(__file__).resolve().parents[2]
SOURCES = {
    "LabGym/__init__.py": b"raise SystemExit('not part of Detectron2')\n",
    "LabGym/NOTICE.txt": b"Detectron2 is a product of Meta.\n",
    "LabGym/COPYRIGHT.txt": "© the stand-in's authors\n".encode(),
    "LabGym/detectron2/__init__.py":
        b"# Copyright (c) Facebook\r\nimport LabGym.detectron2.utils as u\r\n__version__ = '0.6'\r\n",
    "LabGym/detectron2/utils.py":
        b"def where():\n"
        b"    from LabGym.detectron2 import __version__\n"
        b"    return 'LabGym.detectron2.utils', __version__\n",
    "LabGym/detectron2/model_zoo/configs/a.yaml": b"NAME: LabGym.detectron2 stays in data files\n",
}


def make_labgym(path: Path, changes: dict[str, bytes | None] | None = None) -> tuple[Path, str]:
    """Write a stand-in for LabGym's wheel; `changes` replaces or (None) drops a file. Returns its sum."""
    with zipfile.ZipFile(path, "w") as wheel:
        for name, data in {**SOURCES, **(changes or {})}.items():
            if data is not None:
                wheel.writestr(name, data)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def built(tmp_path: Path) -> Path:
    source, sha256 = make_labgym(tmp_path / "labgym.whl")
    return tool.build_wheel(source, tmp_path / "out", sha256)


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_imports_are_turned_back_and_nothing_else_changes(built: Path):
    files = contents(built)
    assert files["detectron2/__init__.py"] == (
        b"# Copyright (c) Facebook\r\nimport detectron2.utils as u\r\n__version__ = '0.6'\r\n")
    assert b"'detectron2.utils'" in files["detectron2/utils.py"]
    yaml = "detectron2/model_zoo/configs/a.yaml"
    assert files[yaml] == SOURCES[f"LabGym/{yaml}"]
    assert not any(name.startswith("LabGym") for name in files)


def test_record_lists_every_file_with_its_sum(built: Path):
    files = contents(built)
    record = f"{tool.DIST_INFO}/RECORD"
    rows = {name: (digest, size) for name, digest, size in csv.reader(files[record].decode().splitlines())}
    assert set(rows) == set(files)
    assert rows.pop(record) == ("", "")
    for name, (digest, size) in rows.items():
        expected = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest()).rstrip(b"=").decode()
        assert (digest, int(size)) == (f"sha256={expected}", len(files[name]))


def test_metadata_says_what_it_is_and_carries_the_licence(built: Path):
    files = contents(built)
    metadata = files[f"{tool.DIST_INFO}/METADATA"].decode()
    assert "\nName: detectron2\nVersion: 0.6+labgym3.1.2\n" in metadata
    assert "\nRequires-Dist: fvcore<0.1.6,>=0.1.5\n" in metadata
    assert files[f"{tool.DIST_INFO}/licenses/LICENSE"] == (REPO / "LICENSE").read_bytes()
    notice = files[f"{tool.DIST_INFO}/licenses/NOTICE"].decode()
    assert "Facebook" in notice
    assert "product of Meta" in notice
    assert "© the stand-in's authors" in notice


def test_the_same_input_gives_the_same_bytes(built: Path, tmp_path: Path):
    source, sha256 = make_labgym(tmp_path / "again.whl")
    assert tool.build_wheel(source, tmp_path / "other", sha256).read_bytes() == built.read_bytes()


def test_only_the_wheel_is_left_behind(built: Path):
    assert [path.name for path in built.parent.iterdir()] == [tool.WHEEL_NAME]


def test_pip_installs_it(built: Path, tmp_path: Path):
    """pip checks names, tags and RECORD; the installed package then imports under its own name."""
    target = tmp_path / "site"
    done = run("-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(target), str(built))
    assert done.returncode == 0, done.stderr
    path = f"import sys; sys.path.insert(0, {str(target)!r})"
    done = run("-c", f"{path}; import detectron2; print(detectron2.u.where())")
    assert done.stdout.strip() == "('detectron2.utils', '0.6')", done.stderr


def test_another_file_is_refused(tmp_path: Path):
    source, _ = make_labgym(tmp_path / "labgym.whl")
    message = rf"labgym\.whl is not the expected file: its SHA-256 is \w{{64}}, expected {tool.LABGYM_SHA256}"
    with pytest.raises(tool.InstallError, match=message):
        tool.build_wheel(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("changes", "message"), [
    ({"LabGym/detectron2/utils.py": b"from LabGym import tools\n"}, "still imports LabGym"),
    ({"LabGym/detectron2/utils.py": b"def broken(:\n"}, "is not Python when converted"),
    ({"LabGym/detectron2/__init__.py": None}, "holds no LabGym/detectron2 package"),
])
def test_what_cannot_be_converted_is_refused(tmp_path: Path, changes: dict, message: str):
    source, sha256 = make_labgym(tmp_path / "labgym.whl", changes)
    with pytest.raises(tool.InstallError, match=message):
        tool.build_wheel(source, tmp_path / "out", sha256)
    assert not (tmp_path / "out").exists(), "half a wheel was left behind"


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path):
    path = tmp_path / "labgym.whl"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(tool.InstallError, match="is not a wheel"):
        tool.build_wheel(path, tmp_path / "out", hashlib.sha256(path.read_bytes()).hexdigest())


# ---------------------------------------------------------------- the command

@pytest.mark.skipif(importlib.util.find_spec("detectron2") is None, reason="detectron2 is not installed")
def test_an_importable_detectron2_is_left_alone(capsys, monkeypatch):
    monkeypatch.setattr(tool, "run", lambda *_: pytest.fail("pip was called"))
    assert tool.main([]) == 0
    assert "detectron2 is already importable" in capsys.readouterr().out


def test_a_detectron2_that_cannot_be_imported_is_reported(tmp_path: Path, monkeypatch, capsys):
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2" / "__init__.py").write_text("raise ImportError('libtorch is another version')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert tool.main([]) == 1
    message = capsys.readouterr().err
    assert "cannot be imported (ImportError: libtorch is another version)" in message
    assert "--force" in message


def test_a_wrong_file_on_the_command_line_is_one_error(tmp_path: Path):
    source, _ = make_labgym(tmp_path / "labgym.whl")
    script = str(REPO / "tools" / "install_detectron2.py")
    done = run(script, "--wheel-dir", str(tmp_path / "out"), "--labgym-wheel", str(source))
    assert done.returncode == 1
    assert done.stderr.startswith("error: labgym.whl is not the expected file")
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_missing_file_on_the_command_line_is_one_error(tmp_path: Path, capsys):
    assert tool.main(["--wheel-dir", str(tmp_path), "--labgym-wheel", str(tmp_path / "none.whl")]) == 1
    assert capsys.readouterr().err.endswith("none.whl: No such file or directory\n")


def test_a_failed_download_is_one_error_and_leaves_nothing(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(tool, "pip", lambda *_: [sys.executable, "-c", "raise SystemExit(1)"])
    monkeypatch.setattr(tool.tempfile, "tempdir", str(tmp_path))
    assert tool.main(["--wheel-dir", str(tmp_path / "out")]) == 1
    assert f"pip could not download {tool.LABGYM}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_does_not_import_is_taken_out_again(monkeypatch: pytest.MonkeyPatch):
    commands = []
    monkeypatch.setattr(tool, "run", lambda command, failure: commands.append(command[4:]))
    monkeypatch.setattr(tool, "find_installed", lambda: None)
    with pytest.raises(tool.InstallError, match="does not find detectron2"):
        tool.install("x.whl")
    assert commands == [["install", "x.whl"], ["uninstall", "--yes", "detectron2"]]

"""Install Detectron2, which is not on the package index, without a compiler.

The PyPI package LabGym 3.1.2 carries a copy of Detectron2 (0.6, the main branch
with later fixes) as `LabGym/detectron2`. From that one wheel, checked by its
SHA-256, a pure-Python `detectron2` wheel is built: the absolute imports
`LabGym.detectron2` become `detectron2` again, nothing else is changed, and the
metadata says where it comes from. It has no `detectron2._C`, which nothing in
this repository needs; `--from-source` compiles upstream's own instead.

Standard library only: this runs before anything else is installed.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

LABGYM = "labgym==3.1.2"
LABGYM_SHA256 = "a2900cff8a3fb508e1975f19b5f9abd9f261966db87b0c332697fb4138c1cb2b"
VERSION = "0.6+labgym3.1.2"
DIST_INFO = f"detectron2-{VERSION}.dist-info"
WHEEL_NAME = f"detectron2-{VERSION}-py3-none-any.whl"

UPSTREAM = "https://github.com/facebookresearch/detectron2.git"
UPSTREAM_COMMIT = "fd27788985af0f4ca800bca563acdb700bb890e2"   # main of November 2024

# What upstream's setup.py asks for (iopath up to 0.1.10, as LabGym allows), then what
# the code imports without saying so: NumPy, PyYAML, torch, torchvision, pkg_resources
# (in model_zoo; setuptools 82 removed it), OpenCV (the visualizer) and SciPy (tracking).
REQUIRES = [
    "Pillow>=7.1",
    "matplotlib",
    "pycocotools>=2.0.2",
    "termcolor>=1.1",
    "yacs>=0.1.8",
    "tabulate",
    "cloudpickle",
    "tqdm>4.29.0",
    "tensorboard",
    "fvcore<0.1.6,>=0.1.5",
    "iopath<=0.1.10,>=0.1.7",
    "omegaconf<2.4,>=2.1",
    "hydra-core>=1.1",
    "black",
    "packaging",
    "numpy",
    "PyYAML",
    "torch",
    "torchvision",
    "setuptools<82",
    "opencv-python-headless",
    "scipy",
]

NOTICE = f"""\
This wheel was made on this machine by segcore.install_detectron2 from the folder
LabGym/detectron2 of the PyPI package {LABGYM} (SHA-256 of that wheel:
{LABGYM_SHA256}).

Detectron2 is Copyright (c) Facebook, Inc. and its affiliates, licensed under the
Apache License, Version 2.0 (see LICENSE). LabGym changed its absolute imports to
`LabGym.detectron2` and fixed it for later versions of Python and its libraries.
CHANGED HERE: in the .py files, `LabGym.detectron2` was turned back into
`detectron2`. Nothing else was changed; detectron2._C is not included.

LabGym's own notices follow.
"""

PROBE = "import detectron2.engine, detectron2.evaluation, detectron2.model_zoo, detectron2.modeling"


class InstallError(RuntimeError):
    """What stopped the installation, in one sentence with the remedy; nothing was installed."""


# ---------------------------------------------------------------- the wheel

def check_sha256(path: Path, expected: str = LABGYM_SHA256) -> None:
    """Raise InstallError unless the file can be read and its SHA-256 is `expected` (hexadecimal)."""
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InstallError(f"cannot read {path}: {error.strerror}") from error
    if found != expected:
        raise InstallError(
            f"{path.name} is not the expected file: its SHA-256 is {found}, expected {expected}. "
            "It was damaged on the way or replaced on the index, and nothing was installed; "
            "try again, and if the sum stays so, use --from-source"
        )


def convert_source(name: str, data: bytes) -> bytes:
    """Turn `LabGym.detectron2` back into `detectron2` in one .py file, keeping its line ends.

    Raises:
        InstallError: if the result is not Python or still imports LabGym.
    """
    text = re.sub(rb"\bLabGym\.detectron2\b", b"detectron2", data)
    if re.search(rb"^\s*(?:from|import)\s+LabGym\b", text, flags=re.MULTILINE):
        raise InstallError(f"{name} still imports LabGym after the conversion; use --from-source")
    try:
        compile(text, name, "exec", dont_inherit=True)
    except SyntaxError as error:
        raise InstallError(f"{name} is not Python when converted ({error}); use --from-source") from error
    return text


def metadata() -> str:
    """Return the METADATA of the wheel: what it is, where it comes from and what it needs."""
    lines = [
        "Metadata-Version: 2.1",
        "Name: detectron2",
        f"Version: {VERSION}",
        "Summary: Detectron2 0.6 (main), pure Python, repackaged from the copy inside LabGym 3.1.2",
        "Home-page: https://github.com/facebookresearch/detectron2",
        "Author: FAIR",
        "License: Apache-2.0",
        "License-File: LICENSE",
        "License-File: NOTICE",
        "Requires-Python: >=3.8",
        *(f"Requires-Dist: {requirement}" for requirement in REQUIRES),
        "Description-Content-Type: text/plain",
    ]
    return "\n".join(lines) + "\n\n" + NOTICE


def apache_license() -> str:
    """Return the text of the Apache License 2.0, from this clone or this installed package.

    Raises:
        InstallError: if neither has its LICENSE file.
    """
    candidates = [Path(__file__).resolve().parents[1] / "LICENSE"]
    try:
        files = importlib.metadata.files("oneformer-seggpt") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    candidates += [Path(file.locate()) for file in files if file.name == "LICENSE"]
    for path in candidates:
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise InstallError("the LICENSE file of this package is missing, and Detectron2's wheel must carry it; "
                       "install from a complete clone")


def collect(source: zipfile.ZipFile) -> dict[str, bytes]:
    """Return the new wheel's files but RECORD, by name, from LabGym's opened wheel.

    Raises:
        InstallError: if that wheel has no Detectron2 inside.
    """
    names = [name for name in source.namelist() if name.startswith("LabGym/detectron2/") and name[-1] != "/"]
    files = {}
    for name in names:
        target = name.removeprefix("LabGym/")
        data = source.read(name)
        files[target] = convert_source(target, data) if target.endswith(".py") else data
    if "detectron2/__init__.py" not in files:
        raise InstallError(f"{source.filename} holds no LabGym/detectron2 package")

    notices = [source.read(name).decode("utf-8").strip()
               for name in ("LabGym/NOTICE.txt", "LabGym/COPYRIGHT.txt") if name in source.namelist()]
    files[f"{DIST_INFO}/licenses/LICENSE"] = apache_license().encode()
    files[f"{DIST_INFO}/licenses/NOTICE"] = "\n\n".join([NOTICE.strip(), *notices, ""]).encode()
    files[f"{DIST_INFO}/METADATA"] = metadata().encode()
    files[f"{DIST_INFO}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: segcore.install_detectron2\n"
        b"Root-Is-Purelib: true\nTag: py3-none-any\n"
    )
    return files


def write_wheel(files: dict[str, bytes], path: Path) -> None:
    """Write a wheel with its RECORD; the same files always give the same bytes."""
    record = []
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record.append(f"{name},sha256={digest},{len(data)}")
    record.append(f"{DIST_INFO}/RECORD,,")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in [*files.items(), (f"{DIST_INFO}/RECORD", "\n".join([*record, ""]).encode())]:
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o100644 << 16
            wheel.writestr(info, data)


def build_wheel(labgym_wheel: Path, directory: Path, sha256: str = LABGYM_SHA256) -> Path:
    """Build the `detectron2` wheel from LabGym's and return its path.

    Args:
        labgym_wheel: the wheel that `pip download labgym==3.1.2` gives.
        directory: where to put the result; made if missing. A file appears there only when it is complete.
        sha256: what the input must sum to.

    Raises:
        InstallError: if the input is not the expected file or cannot be converted.
    """
    check_sha256(labgym_wheel, sha256)
    try:
        with zipfile.ZipFile(labgym_wheel) as source:
            files = collect(source)
    except zipfile.BadZipFile as error:
        raise InstallError(f"{labgym_wheel} is not a wheel: {error}") from error
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".detectron2-") as scratch:
        unfinished = Path(scratch, WHEEL_NAME)
        write_wheel(files, unfinished)
        return unfinished.replace(directory / WHEEL_NAME)


# ---------------------------------------------------------------- pip

def run(command: list[str], failure: str) -> None:
    """Run a command, showing its output; raise InstallError(failure) if it fails."""
    print("$", " ".join(command), flush=True)
    if subprocess.run(command, check=False).returncode != 0:
        raise InstallError(failure)


def pip(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]


def check_pip() -> None:
    if importlib.util.find_spec("pip") is None:
        raise InstallError(f"{sys.executable} has no pip; run: {sys.executable} -m ensurepip")


def download_labgym(directory: Path) -> Path:
    """Download LabGym's wheel alone (no dependencies, any Python) and return its path."""
    run(
        # LabGym itself wants Python < 3.11; only a folder of it is used, and that runs on later ones.
        pip("download", "--quiet", "--no-deps", "--only-binary", ":all:", "--ignore-requires-python",
            "--dest", str(directory), LABGYM),
        f"pip could not download {LABGYM} (its message is above); without a network, copy its wheel here "
        "and use --labgym-wheel FILE",
    )
    wheels = list(directory.glob("*.whl"))
    if len(wheels) != 1:
        raise InstallError(f"pip downloaded {[path.name for path in wheels]}, expected the wheel of {LABGYM}")
    return wheels[0]


def python(code: str) -> subprocess.CompletedProcess:
    """Run code in a new process of this Python, in an empty folder (this one may hold a clone)."""
    with tempfile.TemporaryDirectory(prefix="install-detectron2-") as empty:
        command = [sys.executable, "-c", code]
        return subprocess.run(command, cwd=empty, capture_output=True, text=True, check=False)


def find_installed() -> str | None:
    """Return the folder of an importable detectron2, or None.

    Raises:
        InstallError: if one is there but cannot be imported.
    """
    found = python("import importlib.util as u; s = u.find_spec('detectron2'); print(s and s.origin or '')")
    origin = found.stdout.strip()
    if not origin:
        return None
    probe = python(PROBE)
    if probe.returncode != 0:
        reason = (probe.stderr.strip().splitlines() or ["no message"])[-1]
        raise InstallError(f"detectron2 is at {origin} but cannot be imported ({reason}); "
                           "repair that, or replace it with --force")
    return os.path.dirname(origin)


def install(requirement: str, *options: str, replace: bool = False) -> None:
    """pip-install one requirement and check that Detectron2 can then be imported.

    Raises:
        InstallError: if pip fails (it then changed nothing), or if the import fails (it is taken out again).
    """
    failure = "pip could not install detectron2; its message is above"
    if replace:   # --force-reinstall alone would fetch torch and all else anew
        run(pip("install", *options, "--force-reinstall", "--no-deps", requirement), failure)
    run(pip("install", *options, requirement), failure)
    try:
        if find_installed() is None:
            raise InstallError("pip reported success, but Python does not find detectron2")
    except InstallError:
        run(pip("uninstall", "--yes", "detectron2"), "pip could not uninstall the broken detectron2")
        raise


def install_from_source(commit: str, replace: bool = False) -> None:
    """Build and install upstream's repository at a commit, compiled operators included.

    Needs git, a C++ compiler and torch.
    """
    if importlib.util.find_spec("torch") is None:
        raise InstallError("building Detectron2 from source needs torch first: pip install torch torchvision")
    # Upstream's setup.py imports torch, which an isolated build would not have.
    install(f"git+{UPSTREAM}@{commit}", "--no-build-isolation", replace=replace)


# ---------------------------------------------------------------- command line

def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="install_detectron2", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--wheel-dir", type=Path, metavar="DIR", help="only build the wheel, into DIR")
    result.add_argument("--labgym-wheel", type=Path, metavar="FILE",
                        help="use this copy of LabGym's wheel instead of downloading it")
    result.add_argument("--from-source", nargs="?", const=UPSTREAM_COMMIT, metavar="COMMIT",
                        help="build upstream's repository instead (default commit: %(const).12s)")
    result.add_argument("--force", action="store_true", help="install even if detectron2 is importable")
    return result


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    args = parser().parse_args(arguments)
    try:
        return _main(args)
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _main(args: argparse.Namespace) -> int:
    check_pip()
    if args.wheel_dir is None and not args.force:
        origin = find_installed()
        if origin is not None:
            print(f"detectron2 is already importable ({origin}); nothing to do")
            return 0
    if args.from_source:
        install_from_source(args.from_source, replace=args.force)
        return 0
    with tempfile.TemporaryDirectory(prefix="install-detectron2-") as scratch:
        source = args.labgym_wheel or download_labgym(Path(scratch))
        wheel = build_wheel(source, args.wheel_dir or Path(scratch, "built"))
        print(f"built {wheel}")
        if args.wheel_dir is None:
            install(str(wheel), replace=args.force)
            print(f"installed detectron2 {VERSION}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Build a source archive, from it a wheel, install that in a new environment, and run the tests on it.

python tools/test_wheel.py                        # the whole fast suite
python tools/test_wheel.py --borrow -- tests/oneformer -k predictor

The tests and what they read (configs, demo, docs) come from the archive; the packages from the installed wheel alone.
Tests that read the packages' source code are left out.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("oneformer", "seggpt", "segcore")
# They read the packages' source, setup.py, or documentation that names source files.
OF_THE_SOURCE = ("tests/test_import_rules.py", "tests/test_packaging.py", "tests/test_setup.py", "tests/docs",
                 "tests/segcore/ops/test_extension.py")


def main() -> int:
    args = parse_args()
    with tempfile.TemporaryDirectory(prefix="wheel-") as folder:
        work = Path(folder)
        source = unpack(build_archive(work), work)
        wheel = build_wheel(source, work)
        python = make_environment(work / "venv", wheel, args.borrow)
        for package in PACKAGES:
            shutil.rmtree(source / package)
        check_origin(python, source)
        return run_tests(python, source, args.pytest)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--borrow", action="store_true",
                        help="see this interpreter's packages in place of installing the wheel's dependencies")
    parser.add_argument("pytest", nargs="*", help="arguments for pytest, after --")
    return parser.parse_args()


def call(*command, **options) -> None:
    print("$", *command, flush=True)
    subprocess.run([str(part) for part in command], check=True, **options)


def build_archive(work: Path) -> Path:
    call(sys.executable, "setup.py", "-q", "egg_info", "--egg-base", work, "sdist", "--dist-dir", work, cwd=ROOT,
         env={**os.environ, "SEGCORE_EXT": "0"})
    (archive,) = work.glob("*.tar.gz")
    return archive


def unpack(archive: Path, work: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(work / "source", filter="data")
    (source,) = (work / "source").iterdir()
    return source


def build_wheel(source: Path, work: Path) -> Path:
    """Without isolation, as the operators are compiled against the torch that is here (SEGCORE_EXT=0: not compiled)."""
    call(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", work / "wheel", source)
    (wheel,) = (work / "wheel").glob("*.whl")
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB", flush=True)
    return wheel


def make_environment(folder: Path, wheel: Path, borrow: bool) -> Path:
    call(sys.executable, "-m", "venv", folder)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if borrow:
        call(python, "-m", "pip", "install", "-q", "--no-deps", wheel)
        # A path in a .pth file comes after the environment's own, and the .pth files inside of it are not read:
        # an editable install of this project there stays unseen.
        own = subprocess.check_output(
            [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True).strip()
        Path(own, "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    else:
        call(python, "-m", "pip", "install", "-q", f"{wheel}[test,demo,web,export]")
        call(python, "-m", "segcore.install_detectron2")
    return python


def check_origin(python: Path, source: Path) -> None:
    """The packages must be the environment's, whatever the working folder."""
    code = f"import {', '.join(PACKAGES)}\nfor p in ({', '.join(PACKAGES)}): print(p.__file__)"
    found = subprocess.check_output([str(python), "-c", code], cwd=source, text=True).split()
    outside = [path for path in found if not Path(path).is_relative_to(python.parents[1])]
    if outside:
        raise SystemExit(f"error: {outside} are not in the new environment")


def run_tests(python: Path, source: Path, arguments: list[str]) -> int:
    ignored = [f"--ignore={path}" for path in OF_THE_SOURCE]
    command = [str(python), "-m", "pytest", "-q", *ignored, *arguments]
    print("$", *command, flush=True)
    environment = {**os.environ, "SEGCORE_WEIGHTS": str(source / "demo" / "weights")}
    environment.pop("PYTHONPATH", None)
    return subprocess.run(command, cwd=source, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

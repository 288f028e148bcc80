"""What a user installs: declared dependencies, data files, YAML, and the import of the three packages."""

from __future__ import annotations

import ast
import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.processes import run, run_without_detectron2

REPO = Path(__file__).resolve().parents[1]
PACKAGES = ("oneformer", "seggpt", "segcore")

# Import name -> name on the index, where they differ.
INDEX_NAME = {
    "PIL": "pillow", "cv2": "opencv-python-headless", "yaml": "pyyaml", "open_clip": "open_clip_torch",
    "sklearn": "scikit-learn", "skimage": "scikit-image",
}
# Required although no module here imports it by name, and why.
INDIRECT = {
    "tensorboard": "torch.utils.tensorboard imports it, and the engine writes its files",
    "torchvision": "Detectron2 imports it; pip then picks the one that matches torch",
    "open-clip-torch": "CLIP's vocabulary is read as a file of its wheel, without importing it",
}


def tracked(*patterns: str) -> list[Path]:
    """The files of this clone that git tracks and that match; a source archive without git has none."""
    command = ["git", "ls-files", "-z", "--", *patterns]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("not a git clone")
    return [REPO / name for name in done.stdout.split("\0") if name]


@functools.cache
def setup_arguments() -> dict:
    """The arguments that setup.py gives to setup(), without building anything."""
    code = (
        "import json, os, runpy, setuptools\n"
        "os.environ['SEGCORE_EXT'] = '0'\n"
        "def setup(**arguments):\n"
        "    keys = 'python_requires', 'packages', 'install_requires', 'extras_require'\n"
        "    print(json.dumps({k: arguments[k] for k in keys}))\n"
        "setuptools.setup = setup\n"
        "runpy.run_path('setup.py')\n"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def project_name(requirement: str) -> str:
    """The bare, normalised name in a requirement such as `torch>=2.4`."""
    for stop in "<>=!~[; ":
        requirement = requirement.split(stop)[0]
    return requirement.strip().lower().replace("_", "-")


def third_party_imports() -> dict[str, set[str]]:
    """Normalised project name -> the files of the packages that import it (Detectron2 and ours aside)."""
    found: dict[str, set[str]] = {}
    for package in PACKAGES:
        for path in (REPO / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    names = [node.module]
                else:
                    continue
                for top in {name.split(".")[0] for name in names}:
                    if top not in sys.stdlib_module_names and top not in (*PACKAGES, "detectron2"):
                        project = project_name(INDEX_NAME.get(top, top))
                        found.setdefault(project, set()).add(str(path.relative_to(REPO)))
    return found


def test_every_import_is_declared():
    arguments = setup_arguments()
    extras = [requirement for group in arguments["extras_require"].values() for requirement in group]
    declared = {project_name(requirement) for requirement in arguments["install_requires"] + extras}
    undeclared = {name: files for name, files in third_party_imports().items() if name not in declared}
    assert not undeclared, undeclared


def test_every_requirement_is_used():
    required = {project_name(requirement) for requirement in setup_arguments()["install_requires"]}
    unused = required - set(third_party_imports()) - set(INDIRECT)
    assert not unused, f"no module imports {sorted(unused)}; remove them from install_requires"


def test_every_package_folder_is_packaged():
    packages = set(setup_arguments()["packages"])
    folders = {".".join(path.parent.relative_to(REPO).parts)
               for package in PACKAGES for path in (REPO / package).rglob("*.py")}
    assert folders <= packages, "a folder with .py files lacks __init__.py"


def test_versions():
    arguments = setup_arguments()
    assert arguments["python_requires"] == ">=3.10"
    assert "torch>=2.4" in arguments["install_requires"]
    # Isolated builds must not download torch.
    build = (REPO / "pyproject.toml").read_text(encoding="utf-8").split("[build-system]")[1].split("\n[")[0]
    requires = next(line for line in build.splitlines() if line.startswith("requires"))
    assert "torch" not in requires


def test_every_tracked_yaml_loads_safely():
    files = tracked("*.yaml", "*.yml")
    for path in files:
        with path.open(encoding="utf-8") as stream:
            assert isinstance(yaml.safe_load(stream), dict), path


def test_every_base_of_a_config_exists():
    for path in tracked("configs/*.yaml"):
        bases = yaml.safe_load(path.read_text(encoding="utf-8")).get("_BASE_", [])
        for base in [bases] if isinstance(bases, str) else bases:
            assert (path.parent / base).is_file(), f"{path} names {base}"


def test_no_large_or_generated_file_is_tracked():
    for path in tracked():
        assert path.suffix not in {".pyc", ".so", ".pth", ".pkl"}, f"{path} does not belong in the repository"
        # 25 MB is what the bundled weights may weigh; nothing else comes near.
        assert not path.is_file() or path.stat().st_size <= 25e6, path


def test_importing_everything_twice_is_harmless():
    """A second import of every module, as after a reload or by a second path, registers nothing twice.

    segcore.ops stays: PyTorch keeps operators for the life of the process and takes each definition once.
    """
    code = """
import importlib, pkgutil, sys
KEPT = ("segcore.ops", "segcore._C")
def import_all():
    for package in ("oneformer", "seggpt", "segcore"):
        root = importlib.import_module(package)
        for info in pkgutil.walk_packages(root.__path__, package + "."):
            if info.name not in KEPT:
                importlib.import_module(info.name)
import_all()
for name in [n for n in sys.modules if n.split(".")[0] in ("oneformer", "seggpt", "segcore")]:
    if not name.startswith(KEPT):
        del sys.modules[name]
import_all()
print("imported")
"""
    done = run(code)
    assert done.stdout.strip().endswith("imported"), done.stderr


def test_the_config_registers_what_it_names():
    done = run(
        "from detectron2.config import get_cfg\n"
        "from detectron2.modeling import META_ARCH_REGISTRY\n"
        "from oneformer import add_oneformer_config\n"
        "from seggpt import add_seggpt_config\n"
        "cfg = get_cfg()\n"
        "add_oneformer_config(cfg)\n"
        "add_seggpt_config(cfg)\n"
        "print(META_ARCH_REGISTRY.get('OneFormer').__module__, META_ARCH_REGISTRY.get('SegGPT').__module__)\n"
    )
    assert done.stdout.split() == ["oneformer.modeling.oneformer", "seggpt.modeling.seggpt"], done.stderr


def test_missing_detectron2_is_one_clear_error():
    done = run_without_detectron2("from oneformer import add_oneformer_config")
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: oneformer.add_oneformer_config: detectron2 is not installed")
    assert "python tools/install_detectron2.py" in last
    assert "During handling" not in done.stderr, "one error, not a chain"


def test_an_unknown_name_is_an_attribute_error():
    import oneformer

    with pytest.raises(AttributeError, match="has no attribute 'add_twoformer_config'"):
        _ = oneformer.add_twoformer_config
    assert "add_oneformer_config" in dir(oneformer)

"""Who may import whom, and who may read the config (CONTRIBUTING.md lists the rules)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import run_without_detectron2

PACKAGES = ("oneformer", "seggpt", "segcore")
REPO = Path(__file__).resolve().parents[1]

# A module under the first name may not import one under the second.
FORBIDDEN = [
    ("oneformer", "seggpt"),
    ("seggpt", "oneformer"),
    ("segcore", "oneformer"),
    ("segcore", "seggpt"),
    ("segcore.ops", "detectron2"),
    ("segcore.lazy", "torch"),
    ("segcore.install_detectron2", "torch"),
    *((f"{user}.modeling", f"{package}.{part}")
      for user in PACKAGES for package in PACKAGES for part in ("data", "engine", "evaluation")),
]

# Files that may read `cfg` anywhere; the solver belongs to the engine. In all others only
# `from_config` may, and functions that turn a config into arguments and are named for it:
# `build_*`, as Detectron2's registries call them, and `*_arguments`.
CONFIG_READERS = ("config.py", "engine.py", "engine/", "solver.py")
CONFIG_FUNCTION = re.compile(r"from_config|_?build_\w+|\w+_arguments")


# ---------------------------------------------------------------- reading the sources

def sources() -> dict[str, Path]:
    """Module name -> file, for every module of the three packages."""
    found = {}
    for package in PACKAGES:
        for path in sorted((REPO / package).rglob("*.py")):
            parts = path.relative_to(REPO).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[str, int]]:
    """Yield (absolute dotted name, line) of everything a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if is_package else module.split(".")[:-1]
                parents = package[:len(package) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            # `from a import b` may import the module a.b
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def broken_imports(modules: dict[str, tuple[ast.AST, bool]]) -> list[str]:
    """Return one line for every import that FORBIDDEN names."""
    return [
        f"{module}:{line} imports {name}: {user} must not import {used}"
        for module, (tree, is_package) in modules.items()
        for name, line in imports(tree, module, is_package)
        for user, used in FORBIDDEN
        if under(module, user) and under(name, used)
    ]


def config_reads(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield (key, line) of every `cfg.MODEL`, `self.cfg.MODEL` ... outside the functions that may read it."""
    def visit(node: ast.AST) -> Iterator[tuple[str, int]]:
        if isinstance(node, ast.FunctionDef) and CONFIG_FUNCTION.fullmatch(node.name):
            return
        if isinstance(node, ast.Attribute) and node.attr.isupper():
            holder = node.value
            name = holder.id if isinstance(holder, ast.Name) else getattr(holder, "attr", None)
            if name in ("cfg", "_cfg"):
                yield node.attr, node.lineno
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    yield from visit(tree)


def parsed() -> dict[str, tuple[ast.AST, bool]]:
    return {module: (ast.parse(path.read_text(encoding="utf-8"), str(path)), path.name == "__init__.py")
            for module, path in sources().items()}


# ---------------------------------------------------------------- the rules

def test_nothing_imports_what_it_must_not():
    modules = parsed()
    assert {"oneformer", "seggpt", "segcore", "segcore.ops", "oneformer.modeling"} <= set(modules)
    broken = broken_imports(modules)
    assert not broken, "\n".join(broken)


def test_only_config_from_config_and_engine_read_cfg():
    broken = []
    for module, path in sources().items():
        inside = path.relative_to(REPO).as_posix().split("/", 1)[1]
        if not inside.startswith(CONFIG_READERS):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            broken += [f"{module}:{line} reads cfg.{key}" for key, line in config_reads(tree)]
    assert not broken, "\n".join(broken)


def test_packages_and_operators_import_without_detectron2():
    """By really importing, so that a detour through another module counts too."""
    done = run_without_detectron2("import oneformer, seggpt, segcore, segcore.ops; print('imported')")
    assert done.stdout.strip() == "imported", done.stderr


# ---------------------------------------------------------------- the rules are not blind

@pytest.mark.parametrize(("module", "code"), [
    ("oneformer.predictor", "import seggpt"),
    ("oneformer.predictor", "import seggpt.config as c"),
    ("seggpt.predictor", "def f():\n    from oneformer import config"),
    ("segcore.checkpoint", "from oneformer.config import add_oneformer_config"),
    ("oneformer.modeling.head", "from ..data import text"),
    ("oneformer.modeling.head", "from .. import data"),
    ("oneformer.modeling.head", "from segcore.evaluation.panoptic import panoptic_quality"),
    ("oneformer.modeling.backbone.swin", "from ...data.text import T"),
    ("seggpt.modeling.vit", "from segcore.engine import main"),
    ("segcore.ops.reference", "from detectron2.layers import cat"),
])
def test_a_forbidden_import_is_found(module: str, code: str):
    assert len(broken_imports({module: (ast.parse(code), False)})) == 1


@pytest.mark.parametrize(("module", "code"), [
    ("oneformer.modeling.head", "from detectron2.data import MetadataCatalog"),
    ("oneformer.modeling.head", "from .database import rows"),
    ("oneformer.data.mapper", "from segcore.data import MAPPER_REGISTRY"),
    ("segcore.opsx", "import detectron2"),
])
def test_an_allowed_import_is_not_reported(module: str, code: str):
    assert broken_imports({module: (ast.parse(code), False)}) == []


def test_a_relative_import_in_a_package_starts_at_the_package():
    code = ast.parse("from . import data\nfrom .modeling import head")
    names = [name for name, _ in imports(code, "oneformer", True)]
    assert names == ["oneformer.data", "oneformer.modeling.head"]


@pytest.mark.parametrize(("code", "keys"), [
    ("def f(cfg):\n    return cfg.MODEL.WEIGHTS", ["MODEL"]),
    ("class A:\n    def g(self):\n        return self.cfg.SOLVER.BASE_LR", ["SOLVER"]),
    ("def from_config(cls, cfg):\n    return {'a': cfg.MODEL.WEIGHTS}", []),
    ("def build_backbone(cfg):\n    return cfg.MODEL.SWIN", []),
    ("def _lsj_arguments(cfg):\n    return {'size': cfg.INPUT.IMAGE_SIZE}", []),
    ("def from_configuration(cfg):\n    return cfg.MODEL.SWIN", ["MODEL"]),
    ("def f(cfg):\n    return cfg.clone()", []),
])
def test_config_reads(code: str, keys: list[str]):
    assert [key for key, _ in config_reads(ast.parse(code))] == keys

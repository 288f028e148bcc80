"""Public names that are imported on first use, and one clear error when Detectron2 is missing.

`import oneformer` then costs nothing and works in an environment where
Detectron2 is still to be installed; using a name that needs it says how.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping

DETECTRON2_MISSING = (
    "detectron2 is not installed and is not on the package index. Run `python tools/install_detectron2.py` "
    "in a clone of this repository, or `python -m segcore.install_detectron2` anywhere (no compiler needed)."
)


def attach(package: str, names: Mapping[str, str]) -> tuple[Callable, Callable]:
    """Return a package's `__getattr__` and `__dir__` (PEP 562).

    Args:
        package: the package's `__name__`.
        names: public name -> relative module that defines it, as in {"Predictor": ".predictor"}.

    Raises:
        ImportError: by `__getattr__`, if the module needs Detectron2 and it is not installed.
    """

    def __getattr__(name: str):
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            module = importlib.import_module(names[name], package)
        except ModuleNotFoundError as error:
            if error.name == "detectron2":
                raise ImportError(f"{package}.{name}: {DETECTRON2_MISSING}", name="detectron2") from None
            raise
        value = getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *names})

    return __getattr__, __dir__

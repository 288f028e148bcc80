"""The small weights that come with this repository."""

from __future__ import annotations

import os
from pathlib import Path

# An installed wheel has none: this names a folder that does.
ENVIRONMENT_VARIABLE = "SEGCORE_WEIGHTS"
FOLDER = Path(os.environ.get(ENVIRONMENT_VARIABLE) or Path(__file__).resolve().parents[2] / "demo" / "weights")


def bundled_weights(model: str) -> str:
    """The path of a model's bundled weights.

    Args:
        model: how their file names begin, "oneformer" or "seggpt".

    Raises:
        FileNotFoundError: if there are none.
    """
    found = sorted(FOLDER.glob(f"{model}*.safetensors"))
    if not found:
        raise FileNotFoundError(
            f"there are no bundled weights: no {model}*.safetensors in {FOLDER}; run inside a full clone "
            f"of the repository, set {ENVIRONMENT_VARIABLE} to its folder demo/weights, or give weights "
            "(and, unless they are a portable file, a config)"
        )
    return str(found[0])

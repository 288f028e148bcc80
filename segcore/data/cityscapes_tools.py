"""cityscapesscripts, an optional package: one clear error where it is missing."""

from __future__ import annotations

import importlib.util


def require_cityscapesscripts(purpose: str) -> None:
    """Raise ImportError, saying what to install, unless cityscapesscripts can be imported."""
    if importlib.util.find_spec("cityscapesscripts") is None:
        raise ImportError(f"{purpose} needs cityscapesscripts: pip install cityscapesscripts")


def cityscapes_labels() -> list:
    """Cityscapes' label table: name, id, trainId, hasInstances, ignoreInEval, ..."""
    require_cityscapesscripts("Cityscapes' label table")
    from cityscapesscripts.helpers.labels import labels

    return labels

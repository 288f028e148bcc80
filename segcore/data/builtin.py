"""The data sets that the package knows by name.

Each file in builtin_sets/ holds one data set: its categories in the order of
the class indices, and its splits, as paths under the root.
"""

from __future__ import annotations

import json
import os
from functools import cache, partial
from pathlib import Path

from .catalog import register_entry
from .metadata import panoptic_metadata
from .mini.writer import NAME, SCENES, ensure_mini, mini_folder, mini_metadata
from .panoptic_folder import PanopticFolder

_DIRECTORY = Path(__file__).parent / "builtin_sets"
_chosen_root: str | None = None


def register_builtin(root: str | None = None) -> None:
    """Register ADE20K, COCO, Cityscapes, Mapillary Vistas, LabelMeFacade and `mini` (panoptic).

    May be called any number of times; nothing is read, and `mini` is not drawn,
    before a data set is used.

    Args:
        root: the folder that holds the data sets; None keeps the one of an earlier
            call, else DETECTRON2_DATASETS (default "datasets") as it is when a data
            set is loaded.
    """
    global _chosen_root
    if root is not None:
        _chosen_root = os.fspath(root)
    for path in sorted(_DIRECTORY.glob("*.json")):
        _register_file(path)
    for split in SCENES:
        register_entry(f"{NAME}_{split}", partial(_locate_mini, split), mini_metadata(), _prepare_mini)


def datasets_root() -> str:
    """The folder that holds the data sets, as of now."""
    return os.path.expanduser(_chosen_root or os.environ.get("DETECTRON2_DATASETS", "datasets"))


def builtin_sets() -> list[str]:
    """The names of the built-in data sets (not of their splits)."""
    return sorted(path.stem for path in _DIRECTORY.glob("*.json"))


@cache
def builtin_content(data_set: str) -> dict:
    """The content of the file of one of `builtin_sets()`. Do not write into it: it is shared."""
    return json.loads((_DIRECTORY / f"{data_set}.json").read_text(encoding="utf-8"))


def _register_file(path: Path) -> None:
    content = builtin_content(path.stem)
    options = {k: v for k, v in content.items() if k not in ("categories", "splits")}
    metadata = panoptic_metadata(content["categories"], **options)
    image_name = _cityscapes_image if path.stem == "cityscapes" else None
    for name, parts in content["splits"].items():
        register_entry(name, partial(_locate, parts, image_name), metadata)


def _locate(parts: dict[str, str], image_name) -> PanopticFolder:
    root = datasets_root()
    return PanopticFolder(**{k: os.path.join(root, v) for k, v in parts.items()}, image_name=image_name)


def _locate_mini(split: str) -> PanopticFolder:
    return mini_folder(datasets_root(), split)


def _prepare_mini(folder: PanopticFolder) -> None:
    ensure_mini(datasets_root())


def _cityscapes_image(image: dict) -> str:
    """Cityscapes sorts images by city; its JSON names them after their annotation."""
    return f"{image['id'].split('_')[0]}/{image['id']}_leftImg8bit.png"

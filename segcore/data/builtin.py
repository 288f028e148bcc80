"""The data sets that the package knows by name.

Each file in builtin_sets/ holds one data set: its categories in the order of
the class indices, and its splits with labels of each kind, as paths under the
root and the number of images of the whole set.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from .catalog import Source, register_entry
from .instance_json import InstanceJson
from .metadata import panoptic_metadata
from .mini.writer import NAME, SCENES, ensure_mini, mini_folder, mini_metadata
from .panoptic_folder import PanopticFolder
from .panoptic_things import PanopticThings
from .semantic_folder import SemanticFolder

_DIRECTORY = Path(__file__).parent / "builtin_sets"
_chosen_root: str | None = None


def register_builtin(root: str | None = None) -> None:
    """Register the panoptic, instance and semantic splits of ADE20K, COCO, Cityscapes and Mapillary Vistas, and
    LabelMeFacade and `mini` (panoptic).

    May be called any number of times; nothing is read, and `mini` is not drawn,
    before a data set is used. Names that another package holds stay its own, and get the metadata that they
    lack; those that Detectron2 itself registers with a root that is fixed on import (Cityscapes, ADE20K) are
    taken over.

    Args:
        root: the folder that holds the data sets; None keeps the one of an earlier
            call, else DETECTRON2_DATASETS (default "datasets") as it is when a data
            set is loaded.
    """
    global _chosen_root
    if root is not None:
        _chosen_root = os.fspath(root)
    for data_set in builtin_sets():
        for name, entry in builtin_splits(data_set).items():
            register_entry(name, entry.locate, entry.metadata)
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


# What a file says besides the arguments of `panoptic_metadata`.
_NO_PATHS = ("images", "submission_split")
_OF_PANOPTIC = ("evaluator_type", "ignore_label", "label_divisor", "thing_classes", "stuff_ids")


class Split(NamedTuple):
    """One built-in split: where it lies now, its metadata, and the number of images of the whole set."""

    locate: Callable[[], Source]
    metadata: dict
    images: int


def builtin_splits(data_set: str) -> dict[str, Split]:
    """The splits of one of `builtin_sets()` by name: panoptic, instance and semantic ones."""
    content = builtin_content(data_set)
    image_name = _cityscapes_image if data_set == "cityscapes" else None
    suffixes = content.get("image_suffix", ""), content.get("label_suffix", "")
    panoptic = _panoptic_metadata(content)
    found = {}

    def add(name: str, parts: dict, source: Callable, metadata: dict) -> None:
        found[name] = Split(partial(source, parts), _of_split(metadata, parts), parts["images"])

    for name, parts in content["splits"].items():
        add(name, parts, partial(_panoptic_folder, image_name=image_name), panoptic)
    for name, parts in content.get("instance_splits", {}).items():
        source = _instance_json if "json_file" in parts else partial(_panoptic_things, image_name=image_name)
        add(name, parts, source, _instance_metadata(content, panoptic))
    for name, parts in content.get("semantic_splits", {}).items():
        add(name, parts, partial(_semantic_folder, suffixes=suffixes), _semantic_metadata(content, panoptic))
    return found


def _of_split(metadata: dict, parts: dict) -> dict:
    """With the name that the benchmark's server gives the split, where it matters."""
    name = parts.get("submission_split")
    return metadata if name is None else {**metadata, "submission_split": name}


def _panoptic_metadata(content: dict) -> dict:
    fields = panoptic_metadata(content["categories"], **{k: content[k] for k in _OF_PANOPTIC if k in content})
    if "submission_offset" in content:
        fields["submission_offset"] = content["submission_offset"]
    return fields


def _instance_metadata(content: dict, panoptic: dict) -> dict:
    """The classes of the panoptic splits, except where the instance benchmark numbers its things apart."""
    kind = content.get("instance_evaluator_type", "coco")
    if content.get("instance_classes") == "things":
        things = [category for category in content["categories"] if category["isthing"]]
        fields = {
            **panoptic_metadata(things, evaluator_type=kind),
            "instance_class_map": panoptic["instance_class_map"],
        }
    else:
        fields = {**panoptic, "evaluator_type": kind}
    return {**fields, **_thing_names(content), "tasks": ("instance",)}


def _thing_names(content: dict) -> dict:
    """Detectron2's own Cityscapes splits list the things alone under thing_classes; class indices stay."""
    if content.get("split_thing_classes") != "things":
        return {}
    things = [category for category in content["categories"] if category["isthing"]]
    return {key: [c[field] for c in things] for key, field in (("thing_classes", "name"), ("thing_colors", "color"))}


def _semantic_metadata(content: dict, panoptic: dict) -> dict:
    """The classes of the panoptic splits; labels are class indices, and the ignored value."""
    count, ignored = len(content["categories"]), panoptic["ignore_label"]
    return {
        **panoptic,
        **_thing_names(content),
        "evaluator_type": content.get("semantic_evaluator_type", "sem_seg"),
        "label_classes": {index: index for index in range(count)},
        "ignored_labels": (ignored,),
        "tasks": ("semantic",),
    }


def _located(parts: dict) -> dict[str, str]:
    """The paths of a split under the root, as of now."""
    return {k: os.path.join(datasets_root(), v) for k, v in parts.items() if k not in _NO_PATHS}


def _panoptic_folder(parts: dict, image_name) -> PanopticFolder:
    return PanopticFolder(**_located(parts), image_name=image_name)


def _panoptic_things(parts: dict, image_name) -> PanopticThings:
    return PanopticThings(_panoptic_folder(parts, image_name))


def _instance_json(parts: dict) -> InstanceJson:
    return InstanceJson(**_located(parts))


def _semantic_folder(parts: dict, suffixes: tuple[str, str]) -> SemanticFolder:
    return SemanticFolder(**_located(parts), image_suffix=suffixes[0], label_suffix=suffixes[1])


def _locate_mini(split: str) -> PanopticFolder:
    return mini_folder(datasets_root(), split)


def _prepare_mini(folder: PanopticFolder) -> None:
    ensure_mini(datasets_root())


def _cityscapes_image(image: dict) -> str:
    """Cityscapes sorts images by city; its JSON names them after their annotation."""
    return f"{image['id'].split('_')[0]}/{image['id']}_leftImg8bit.png"

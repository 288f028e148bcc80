"""Registering one's own data, from Python or from DATASETS.CUSTOM in a config.

A set's labels say which tasks it can train and measure: label PNGs the semantic
task, instances the instance task, panoptic labels all three.
"""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence

from .builtin import datasets_root
from .catalog import register_entry, register_panoptic
from .class_list import Classes, read_categories, renamed
from .instance_json import InstanceJson, read_instance_json
from .instance_masks import MASK_VALUES, InstanceMasks
from .metadata import panoptic_metadata
from .panoptic_folder import PanopticFolder, read_panoptic_json
from .panoptic_things import PanopticThings
from .semantic_folder import SemanticFolder

_IGNORED = 255


def register_semantic(
    name: str,
    *,
    image_root: str,
    label_root: str,
    classes: Classes,
    ignore: int | Sequence[int] = _IGNORED,
    image_suffix: str = "",
    label_suffix: str = "",
) -> None:
    """Register images with label PNGs: one integer per pixel, grey or palette, 8 or 16 bits.

    Nothing but the list of classes is read until the data set is used.

    Args:
        name: for DATASETS.TRAIN and DATASETS.TEST.
        image_root, label_root: an image and its label have the same path below these, up to the suffixes
            and the ending.
        classes: names in the order of the label values 0, 1, ...; or {value: name}; or the path of a .txt
            with a name per line or of a .json. See `read_categories`.
        ignore: the value, or values, of pixels that are not labelled.
        image_suffix, label_suffix: what file names have between the common part and the ending.

    Raises:
        ValueError: a wrong list of classes, a value that is a class and ignored, or `name` is taken.
        FileNotFoundError: `classes` names a file that does not exist.
    """
    categories = read_categories(classes, isthing=0)
    ignored = [ignore] if isinstance(ignore, int) else list(ignore)
    both = sorted({c["id"] for c in categories} & set(ignored))
    if both and both != [_IGNORED]:
        raise ValueError(f"data set {name!r}: the label value {both[0]} is a class and under ignore; choose one")
    categories = [{**category, "isthing": 0} for category in categories]
    metadata = panoptic_metadata(categories, evaluator_type="sem_seg")
    metadata["label_classes"] = {category["id"]: index for index, category in enumerate(categories)}
    metadata["ignored_labels"] = tuple(value for value in ignored if value not in metadata["label_classes"])
    metadata["tasks"] = ("semantic",)
    folder = SemanticFolder(image_root, label_root, image_suffix, label_suffix)
    register_entry(name, lambda: folder, metadata)


def register_instances(
    name: str,
    *,
    image_root: str,
    json_file: str | None = None,
    panoptic_json: str | None = None,
    panoptic_root: str | None = None,
    mask_root: str | None = None,
    mask_pattern: str | None = None,
    mask_values: str = "binary",
    image_suffix: str = "",
    classes: Classes | None = None,
    rename: Mapping[str, str] | None = None,
) -> None:
    """Register images with instances: a COCO instance JSON, masks as pictures, or the things of a COCO
    panoptic folder.

    Args:
        name: for DATASETS.TRAIN and DATASETS.TEST.
        image_root: folder of the images.
        json_file: COCO instance annotations, polygons or RLE.
        panoptic_json, panoptic_root: a COCO panoptic folder, of which only the things are used.
        mask_root: folder of mask pictures; needs `classes`.
        mask_pattern: glob below `mask_root` for the masks of one image; {stem} is the image's path below
            `image_root` without suffix and ending, {class} the name of a class. By default "{stem}/*.png"
            for binary masks of one class, "{class}/{stem}/*.png" of several; with ids "{stem}.png" and
            "{class}/{stem}.png".
        mask_values: "binary": a file is one object; "ids": each of its values but zero is one.
        image_suffix: what image names have before their ending (masks only).
        classes: as for `register_semantic`, numbered from 1; None takes them from the JSON.
        rename: other names for some of the classes.

    Raises:
        ValueError: none or several kinds of labels, wrong options, a wrong list of classes, or `name` is taken.
        FileNotFoundError: classes are to be read from a file that does not exist.
    """
    given = {"json_file": json_file, "panoptic_json": panoptic_json, "mask_root": mask_root}
    kinds = [key for key, value in given.items() if value is not None]
    if len(kinds) != 1:
        raise ValueError(
            f"data set {name!r}: give one of json_file, panoptic_json (with panoptic_root) and mask_root; got "
            f"{' and '.join(kinds) or 'none'}"
        )
    if kinds == ["panoptic_json"]:
        if panoptic_root is None:
            raise ValueError(f"data set {name!r}: panoptic_json needs panoptic_root, the folder of its PNGs")
        listed = classes or read_panoptic_json(panoptic_json).get("categories", [])
        categories = [c for c in read_categories(listed, isthing=1, first_id=1) if c["isthing"]]
        if not categories:
            raise ValueError(f"data set {name!r}: {panoptic_json} lists no thing, so it has no instances")
        source = PanopticThings(PanopticFolder(image_root, panoptic_root, panoptic_json))
    elif kinds == ["json_file"]:
        listed = classes or read_instance_json(json_file)["categories"]
        categories = read_categories(listed, isthing=1, first_id=1)
        source = InstanceJson(image_root, json_file)
    else:
        if classes is None:
            raise ValueError(f"data set {name!r}: masks do not name their classes; give classes: [name]")
        categories = read_categories(classes, isthing=1, first_id=1)
        names = tuple(category["name"] for category in categories)
        pattern = _mask_pattern(name, mask_pattern, mask_values, len(names))
        source = InstanceMasks(image_root, mask_root, pattern, mask_values, names, image_suffix)
    categories = [{**category, "isthing": 1} for category in renamed(categories, rename, f"data set {name!r}")]
    metadata = panoptic_metadata(categories, evaluator_type="coco")
    metadata["tasks"] = ("instance",)
    register_entry(name, lambda: source, metadata)


def register_custom(specs: Sequence[Mapping]) -> None:
    """Register the data sets that DATASETS.CUSTOM describes.

    Args:
        specs: dicts with "name", "kind" (panoptic, semantic or instances) and the arguments of
            `register_<kind>`; relative paths start at DETECTRON2_DATASETS.

    Raises:
        ValueError: a spec with an unknown kind, an unknown or missing argument, or what `register_<kind>` raises.
        FileNotFoundError: as `register_<kind>`.
    """
    for number, spec in enumerate(specs):
        where = f"DATASETS.CUSTOM[{number}]"
        if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
            raise ValueError(f"{where} is {spec!r:.80}; expected name: ..., kind: ..., and where the data lies")
        arguments = {key: value for key, value in spec.items() if key not in ("name", "kind")}
        where += f" ({spec['name']})"
        if spec.get("kind") not in _KINDS:
            raise ValueError(f"{where}: kind is {spec.get('kind')!r}; expected one of {', '.join(_KINDS)}")
        register = _KINDS[spec["kind"]]
        _check_arguments(register, arguments, where)
        register(spec["name"], **{key: _located(key, value) for key, value in arguments.items()})


_KINDS: dict[str, Callable] = {
    "panoptic": register_panoptic,
    "semantic": register_semantic,
    "instances": register_instances,
}
_PATHS = ("image_root", "label_root", "panoptic_root", "sem_seg_root", "mask_root", "json_file", "panoptic_json")


def _located(key: str, value):
    """Relative paths, also that of a class list, start where the data sets lie."""
    is_path = key in _PATHS or (key == "classes" and isinstance(value, str))
    return os.path.join(datasets_root(), os.path.expanduser(value)) if is_path else value


def _check_arguments(register: Callable, arguments: Mapping, where: str) -> None:
    parameters = inspect.signature(register).parameters.values()
    named = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "image_name"]
    names = [p.name for p in named]
    unknown = [key for key in arguments if key not in names]
    if unknown:
        near = difflib.get_close_matches(unknown[0], names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(names)}"
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; {hint}")
    lacking = [p.name for p in named if p.default is p.empty and p.name not in arguments]
    if lacking:
        raise ValueError(f"{where} has no {' and no '.join(lacking)}")


def _mask_pattern(name: str, pattern: str | None, values: str, num_classes: int) -> str:
    if values not in MASK_VALUES:
        raise ValueError(f"data set {name!r}: mask_values is {values!r}; choose one of {', '.join(MASK_VALUES)}")
    if pattern is None:
        pattern = ("" if num_classes == 1 else "{class}/") + ("{stem}/*.png" if values == "binary" else "{stem}.png")
    lacking = [word for word in ("{stem}", "{class}") if word not in pattern]
    if "{stem}" in lacking or (num_classes > 1 and lacking):
        raise ValueError(
            f"data set {name!r}: mask_pattern {pattern!r} has no {lacking[0]}; without it the masks of "
            f"{'different images' if lacking[0] == '{stem}' else 'different classes'} cannot be told apart"
        )
    return pattern

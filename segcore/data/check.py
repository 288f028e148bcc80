"""What of a data set is there, what is missing, and whether a sample of each split can be opened."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

from tabulate import tabulate

from .builtin import builtin_sets, builtin_splits, datasets_root
from .images import read_image
from .layers import read_layers
from .prepare import PREPARATIONS

# Without these the labels are taken from the panoptic PNGs.
_OPTIONAL = ("sem_seg_root",)
_MANY = 4  # class names that a sample's line shows


@dataclass(frozen=True)
class Row:
    """One line: a part of a split (or its sample), whether it is right, and what was found."""

    split: str
    part: str
    state: str
    found: str

    @property
    def is_wrong(self) -> bool:
        return self.state in ("missing", "wrong")


def check_data_set(name: str) -> list[Row]:
    """Look at every split of a built-in data set, or at one split.

    Args:
        name: one of `builtin_sets()`, or the name of one of their splits.

    Raises:
        ValueError: an unknown name.
    """
    return [row for split, entry in _chosen(name).items() for row in _check_split(split, entry)]


def _chosen(name: str) -> dict:
    if name in builtin_sets():
        return builtin_splits(name)
    for data_set in builtin_sets():
        splits = builtin_splits(data_set)
        if name in splits:
            return {name: splits[name]}
    raise ValueError(f"unknown data set {name!r}; known are {', '.join(builtin_sets())} and the names of their splits")


def _check_split(split: str, entry) -> list[Row]:
    source = entry.locate()
    rows = [_check_part(split, part, path, entry.images) for part, path in source.paths().items()]
    # Panoptic labels can be read without the instances, which only AP is measured with.
    beside = {"json_file"} if "panoptic_json" in source.paths() else set()
    missing = [row.part for row in rows if row.is_wrong and row.part not in beside]
    if missing:
        return [*rows, Row(split, "sample", "not opened", f"needs {', '.join(missing)}")]
    return [*rows, *_check_samples(split, entry, source)]


def _check_part(split: str, part: str, path: str, expected: int) -> Row:
    shown = os.path.relpath(path, datasets_root())
    if not os.path.exists(path):
        return Row(split, part, "optional" if part in _OPTIONAL else "missing", f"{shown} is not there")
    if part == "gt_dir":
        return Row(split, part, "there", shown)
    try:
        count = _count_json(path) if path.endswith(".json") else _count_files(path, labels=part != "image_root")
    except ValueError as error:
        return Row(split, part, "wrong", f"{shown}: {error}")
    if count == 0:
        return Row(split, part, "missing", f"{shown} is empty")
    state = "there" if count == expected else "in part"
    return Row(split, part, state, f"{shown}: {count:,} of {expected:,} images")


def _count_json(path: str) -> int:
    with open(path, encoding="utf-8") as file:
        return len(json.load(file).get("images", ()))


def _count_files(folder: str, labels: bool) -> int:
    """Files of one kind of ending: Cityscapes keeps several PNGs of an image in a folder."""
    names = [name for _, _, names in os.walk(folder, followlinks=True) for name in names]
    if labels and any(name.endswith("_gtFine_labelTrainIds.png") for name in names):
        return sum(name.endswith("_gtFine_labelTrainIds.png") for name in names)
    endings = (".png",) if labels else (".png", ".jpg", ".jpeg")
    return sum(name.lower().endswith(endings) for name in names)


def _check_samples(split: str, entry, source) -> list[Row]:
    """Open the first, the middle and the last image with its labels."""
    problems: list[str] = []
    try:
        records = source.load(SimpleNamespace(**entry.metadata), problems)
    except (ValueError, OSError) as error:
        return [Row(split, "sample", "wrong", str(error))]
    rows = [Row(split, "labels", "wrong", problem) for problem in problems[:3]]
    if len(problems) > len(rows):
        rows.append(Row(split, "labels", "wrong", f"and {len(problems) - len(rows)} more images"))
    if not records:
        return [*rows, Row(split, "sample", "wrong", "no image has labels")]
    for number in sorted({0, len(records) // 2, len(records) - 1}):
        record = records[number]
        try:
            rows.append(Row(split, "sample", "opened", _describe(record, entry.metadata["stuff_classes"])))
        except (ValueError, OSError) as error:
            rows.append(Row(split, "sample", "wrong", str(error)))
    return rows


def _describe(record: dict, class_names: Sequence[str]) -> str:
    size = read_image(record["file_name"]).shape[:2]
    shown: Counter[str] = Counter()
    for layer in read_layers(record, size):
        present = set(layer.indices.ravel().tolist()) - {0}
        for index in present:
            category = layer.segments[index - 1]["category_id"]
            shown[class_names[category] if category >= 0 else "other"] += 1
    names = ", ".join(f"{count} {name.strip()}" for name, count in shown.most_common(_MANY))
    more = f" and {len(shown) - _MANY} more classes" if len(shown) > _MANY else ""
    return f"{os.path.basename(record['file_name'])}, {size[0]}x{size[1]}: {names or 'nothing'}{more}"


def report(name: str, rows: Sequence[Row]) -> str:
    """The table, and what to do about what is missing."""
    table, before = [], None
    for row in rows:
        table.append(["" if row.split == before else row.split, row.part, row.state, row.found])
        before = row.split
    text = tabulate(table, ["split", "part", "state", "what"], tablefmt="simple_outline")
    lines = [text, f"root: {os.path.abspath(datasets_root())}"]
    counts = Counter(row.state for row in rows)
    wrong = counts["missing"] + counts["wrong"]
    whole = (
        "everything is there" if not counts["in part"] else "everything that is looked for is there, but not all images"
    )
    lines.append(f"{wrong} of {len(rows)} lines are missing or wrong" if wrong else whole)
    data_set = name if name in PREPARATIONS else next((d for d in PREPARATIONS if name in builtin_splits(d)), None)
    if counts["missing"] and data_set:
        lines.append(
            f"what the download lacks is made by: python datasets/prepare_{data_set}.py; datasets/README.md shows "
            "the tree"
        )
    return "\n".join(lines)

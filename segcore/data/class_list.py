"""The classes of a data set as its user writes them down, turned into COCO categories."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence

Classes = Sequence[str | dict] | Mapping[int, str] | str


def read_categories(classes: Classes, isthing: int, first_id: int = 0) -> list[dict]:
    """Categories with id, name, isthing and, where given, color, in the order of the class indices.

    Args:
        classes: names, numbered from `first_id`; or {number: name}; or dicts with name and optionally id,
            isthing and color; or the path of a .txt with a name per line or of a .json with any of these.
        isthing: of classes that do not say.
        first_id: number of the first name.

    Raises:
        ValueError: nothing there, an entry of another form, or a name or number twice.
        FileNotFoundError: `classes` is a path and there is no such file.
    """
    where = classes if isinstance(classes, str) else "classes"
    entries = _read_file(classes) if isinstance(classes, str) else classes
    if isinstance(entries, Mapping):
        entries = [{"id": number, "name": name} for number, name in entries.items()]
    categories = [_category(entry, number, isthing, where) for number, entry in enumerate(entries, first_id)]
    if not categories:
        raise ValueError(f"{where} lists no class; write their names")
    for field in ("id", "name"):
        values = [category[field] for category in categories]
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"{where} has the {field} {twice[0]!r} more than once; each must differ")
    return categories


def renamed(categories: Sequence[dict], names: Mapping[str, str] | None, where: str) -> list[dict]:
    """The categories, some under another name.

    Raises:
        ValueError: `names` has one that no category has.
    """
    names = dict(names or {})
    known = [category["name"] for category in categories if "name" in category]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"rename: {where} has no class {unknown[0]!r}; it has {', '.join(known)}")
    return [{**c, "name": names.get(c["name"], c["name"])} if "name" in c else c for c in categories]


def _read_file(path: str) -> list | dict:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"the class list {path} does not exist; write a name per line, or a .json")
    with open(path, encoding="utf-8") as file:
        if not path.endswith(".json"):
            return [line.strip() for line in file if line.strip()]
        try:
            return json.load(file)
        except ValueError as error:
            raise ValueError(f"the class list {path} is not valid JSON: {error}") from error


def _category(entry, number: int, isthing: int, where: str) -> dict:
    entry = {"name": entry} if isinstance(entry, str) else entry
    known = isinstance(entry, Mapping) and isinstance(entry.get("name"), str) and entry["name"].strip()
    if not known or entry.keys() - {"id", "name", "isthing", "color", "supercategory"}:
        raise ValueError(f"{where}: {entry!r} is no class; write its name, or {{id: 1, name: car, color: [0, 0, 255]}}")
    category = {"id": number, "isthing": isthing, **entry}
    try:
        category["id"] = int(category["id"])
    except ValueError as error:
        raise ValueError(f"{where}: the number of class {entry['name']!r} is {category['id']!r}") from error
    return category

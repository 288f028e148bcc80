"""The file formats by name, and where their files go: FOLDER/FORMAT/TASK/NAME.EXTENSION."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from segcore.predictions import Prediction

from . import cityscapes, cvat, geojson, labelme, svg
from .shapes import TASKS, Shape, shapes_of, tasks_of

Write = Callable[[Path, Sequence[Shape], tuple[int, int], str], None]


@dataclass(frozen=True)
class FileFormat:
    """How one format is written.

    Attributes:
        about: what reads it, in a few words.
        extension: of a task's file, by task; tasks that it cannot hold are left out.
        write: by task; called with (path, shapes, (height, width), the picture's file name).
    """

    about: str
    extension: dict[str, str]
    write: dict[str, Write]


def _same_for_all(about: str, extension: str, write: Write) -> FileFormat:
    return FileFormat(about, dict.fromkeys(TASKS, extension), dict.fromkeys(TASKS, write))


FORMATS: dict[str, FileFormat] = {
    "geojson": _same_for_all("polygons for QGIS, QuPath, shapely, ...", ".geojson", geojson.write),
    "svg": _same_for_all("polygons for browsers and drawing programs", ".svg", svg.write),
    "labelme": _same_for_all("masks for labelme", ".json", labelme.write),
    "cvat": _same_for_all("masks for CVAT (CVAT for images 1.1)", ".xml", cvat.write),
    "cityscapes": FileFormat(
        "label ids and objects for cityscapesscripts; Cityscapes' classes only",
        {"instance": ".txt", "semantic": ".png"},
        {"instance": cityscapes.write_objects, "semantic": cityscapes.write_labels},
    ),
}


def check_formats(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once.

    Raises:
        ValueError: for a format that is not known.
    """
    unknown = [name for name in names if name not in FORMATS]
    if unknown:
        raise ValueError(f"unknown format {unknown[0]!r}; known are {', '.join(FORMATS)}")
    return tuple(dict.fromkeys(names))


def write_formats(
    folder: str | os.PathLike, name: str, file_name: str, prediction: Prediction, formats: Sequence[str]
) -> list[Path]:
    """Write one picture's results in each of the formats, for each task that it can hold.

    Args:
        folder: gets a folder per format, with one per task in it.
        name: of the files, without extension; may have folders in it.
        file_name: what the files call the picture.
        prediction: results of any of the tasks.
        formats: keys of `FORMATS`.

    Returns:
        The files that were written.

    Raises:
        ValueError: for an unknown format, or one that cannot hold the classes.
    """
    tasks = {task: shapes_of(prediction, task) for task in tasks_of(prediction)}
    written = []
    for key in check_formats(formats):
        kind = FORMATS[key]
        for task, shapes in tasks.items():
            if task in kind.write:
                path = Path(folder) / key / task / f"{name}{kind.extension[task]}"
                kind.write[task](path, shapes, prediction.size, file_name)
                written.append(path)
    return written

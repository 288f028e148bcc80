"""Registration in Detectron2's catalogs: explicit, lazy, and harmless when repeated."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from detectron2.data import DatasetCatalog, MetadataCatalog

from .class_list import renamed
from .metadata import checked_tasks, panoptic_metadata
from .panoptic_folder import PanopticFolder, read_panoptic_json

logger = logging.getLogger(__name__)

# Detectron2 registers Cityscapes and ADE20K on import, with a root that is fixed then, and refuses data
# without files that only some preparation scripts write.
_STOCK_MODULES = ("detectron2.data.datasets.cityscapes_panoptic", "detectron2.data.datasets.builtin")


class Source(Protocol):
    """Where one split lies, and how it is read: `PanopticFolder` and its siblings."""

    def paths(self) -> dict[str, str]:
        """Fields for the metadata, by name."""

    def load(self, metadata, problems: list[str] | None = None) -> list[dict]:
        """The dataset dicts, with class indices of `metadata`.

        Images that are wrong are left out with a line in `problems`; where that is None, the first raises.
        """


@dataclass
class _Entry:
    """One data set that this module registered.

    `locate` tells where it lies, each time it is asked; `prepare` writes what is
    not there yet; `metadata` are the fields besides the paths.
    """

    locate: Callable[[], Source]
    metadata: dict
    prepare: Callable[[Source], None] | None


_entries: dict[str, _Entry] = {}


def register_panoptic(
    name: str,
    *,
    image_root: str,
    panoptic_root: str,
    panoptic_json: str,
    categories: Sequence[dict] | None = None,
    sem_seg_root: str | None = None,
    image_name: Callable[[dict], str] | None = None,
    tasks: Sequence[str] | None = None,
    rename: Mapping[str, str] | None = None,
    **metadata_options,
) -> None:
    """Register any folder in COCO panoptic format under `name`.

    Nothing but the categories is read until the data set is used.  Repeating a
    call, or naming a data set that another package registered, changes nothing.

    Args:
        name: for DATASETS.TRAIN and DATASETS.TEST.
        image_root, panoptic_root: folders of the images and of the panoptic PNGs.
        panoptic_json: the annotation file.
        categories: dicts with id, name, isthing and optionally color, in the order
            of the class indices; None reads them from the annotation file now.
        sem_seg_root: label PNGs named like the panoptic ones, values = class
            indices; without them labels are derived from the panoptic PNGs.
        image_name: path under `image_root` for a record of the JSON's "images";
            None takes its file_name.
        tasks: what the labels are to be used for; None: panoptic, instance and semantic.
        rename: other names for some of the categories.
        **metadata_options: of `panoptic_metadata` (evaluator_type, ignore_label, ...).

    Raises:
        ValueError: we registered `name` before with other values, or the file lists no categories,
            or `tasks` or `rename` name what is not there.
        FileNotFoundError: categories are to be read from a file that does not exist.
    """
    if categories is None:
        categories = read_panoptic_json(panoptic_json).get("categories")
        if not categories:
            raise ValueError(f"{panoptic_json} lists no categories; pass categories=[{{id, name, isthing}}, ...]")
    folder = PanopticFolder(image_root, panoptic_root, panoptic_json, sem_seg_root=sem_seg_root, image_name=image_name)
    metadata = panoptic_metadata(renamed(categories, rename, panoptic_json), **metadata_options)
    if tasks is not None:
        metadata["tasks"] = checked_tasks(tasks, name)
    register_entry(name, lambda: folder, metadata)


def register_entry(
    name: str,
    locate: Callable[[], Source],
    metadata: dict,
    prepare: Callable[[Source], None] | None = None,
) -> None:
    """Register a data set whose place is asked for (`locate`) whenever it is loaded.

    Args:
        name: for DATASETS.TRAIN and DATASETS.TEST.
        locate: returns the source; may change its answer, e.g. with the environment.
        metadata: the fields besides the paths (`panoptic_metadata`).
        prepare: called with the folder before each load; writes what is missing.

    Raises:
        ValueError: we registered `name` before with other metadata or another place.
    """
    if _is_ours(name):
        _check_same(name, locate(), metadata)
    elif name in DatasetCatalog and not _is_stock(name):
        logger.info("data set %s is registered by another package; left as it is", name)
        _fill(name, {**metadata, **locate().paths()})
        return
    else:
        DatasetCatalog.pop(name, None)
        _entries[name] = _Entry(locate, metadata, prepare)
        DatasetCatalog.register(name, functools.partial(_load, name))
    _replace(name, {**metadata, **locate().paths()})


def load_dataset(name: str, problems: list[str] | None = None) -> list[dict]:
    """The dataset dicts of any registered data set; `problems` as for `Source.load`."""
    return _load(name, problems) if _is_ours(name) else DatasetCatalog.get(name)


def make_datasets(names: Iterable[str]) -> None:
    """Write the data sets that are made on first use and are not there yet."""
    for name in names:
        if _is_ours(name) and _entries[name].prepare is not None:
            _entries[name].prepare(_entries[name].locate())


def _load(name: str, problems: list[str] | None = None) -> list[dict]:
    entry = _entries[name]
    folder = entry.locate()
    _replace(name, folder.paths())
    if entry.prepare is not None:
        entry.prepare(folder)
    return folder.load(MetadataCatalog.get(name), problems)


def _is_ours(name: str) -> bool:
    return name in DatasetCatalog and getattr(DatasetCatalog[name], "func", None) is _load


def _is_stock(name: str) -> bool:
    return getattr(DatasetCatalog[name], "__module__", None) in _STOCK_MODULES


def _check_same(name: str, folder: Source, metadata: dict) -> None:
    known = _entries[name]
    before = {**known.metadata, **known.locate().paths()}
    now = {**metadata, **folder.paths()}
    differing = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
    if differing:
        key = differing[0]
        raise ValueError(
            f"data set {name!r} is registered already, with another {', '.join(differing)} "
            f"({key}: {before.get(key)!r}, now {now.get(key)!r}); choose another name, or call "
            f"DatasetCatalog.remove({name!r}) first"
        )


def _fill(name: str, fields: dict) -> None:
    """Set the metadata that the other package left out."""
    metadata = MetadataCatalog.get(name)
    metadata.set(**{k: v for k, v in fields.items() if k not in metadata.as_dict()})


def _replace(name: str, fields: dict) -> None:
    """Set metadata of a data set that is ours; Detectron2 refuses to change a value, so it goes first."""
    metadata = MetadataCatalog.get(name)
    for key, value in fields.items():
        if metadata.as_dict().get(key) != value:
            if key in metadata.as_dict():
                delattr(metadata, key)
            setattr(metadata, key, value)

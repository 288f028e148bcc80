"""The images of a training run: one or several data sets, checked, in the run's classes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from detectron2.utils import comm
from tqdm import tqdm

from .catalog import load_dataset
from .images import image_size
from .label_space import class_places, label_tasks
from .layers import read_layers
from .metadata import TASKS

logger = logging.getLogger(__name__)

CHECKS = ("on_use", "stop", "skip")
_NAMED = 20  # bad labels named in an error; a log names all


def load_training_set(
    names: Sequence[str], run_classes: str | None = None, check: str = "on_use"
) -> tuple[list[dict], list[int]]:
    """The dataset dicts of several data sets, one after the other.

    Args:
        names: registered data sets.
        run_classes: metadata name of `unite_classes`; None leaves the class indices as they are.
        check: "on_use": a label is read when its image is drawn, and a bad one ends the run then; "stop": all
            labels are read now, and bad ones are all named in one error; "skip": all are read now, and images
            with bad ones are named in the log and left out.

    Returns:
        the dicts, each with "tasks", those that its labels can train, and the number of its data set in `names`.

    Raises:
        ValueError: bad labels, unless they are to be skipped; or no image is left of a data set.
        FileNotFoundError: the files of a data set are not there.
    """
    if check not in CHECKS:
        raise ValueError(f"DATASETS.CHECK_LABELS is {check!r}; choose one of {', '.join(CHECKS)}")
    items: list[dict] = []
    sources: list[int] = []
    for number, name in enumerate(names):
        problems: list[str] | None = None if check == "on_use" else []
        found = load_dataset(name, problems)
        if check != "on_use":
            found = _without_bad(found, name, problems, check)
        if not found:
            raise ValueError(f"data set {name!r} has no image to train on")
        places = None if run_classes is None else class_places(name, run_classes)
        tasks = label_tasks(name)
        items += [_in_run(record, places, tasks) for record in found]
        sources += [number] * len(found)
    return items, sources


def check_labels(records: Sequence[dict], description: str = "labels") -> list[str | None]:
    """Read every label; for each record None, or what is wrong with it.

    Besides what cannot be read: labels of another size than the image, and panoptic labels without any segment.
    """
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(_problem, records)
        progress = tqdm(found, description, len(records), disable=not comm.is_main_process(), mininterval=1)
        return list(progress)


def _problem(record: dict) -> str | None:
    try:
        layers = read_layers(record, image_size(record["file_name"]))
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    if "pan_seg_file_name" in record and not any(layer.indices.any() for layer in layers):
        return f"{record['pan_seg_file_name']} is void everywhere; annotate it or remove it"
    return None


def _without_bad(records: list[dict], name: str, problems: list[str], check: str) -> list[dict]:
    """The records with good labels; the processes share the reading."""
    rank, count = comm.get_rank(), comm.get_world_size()
    parts = comm.all_gather(check_labels(records[rank::count], name))
    found: list[str | None] = [None] * len(records)
    for number, part in enumerate(parts):
        found[number::count] = part
    bad = problems + [problem for problem in found if problem is not None]
    total = len(records) + len(problems)
    if bad and check == "stop":
        named = "\n  ".join(bad[:_NAMED]) + (f"\n  and {len(bad) - _NAMED} more" if len(bad) > _NAMED else "")
        raise ValueError(
            f"{len(bad)} of the {total} images of {name} have bad labels:\n  {named}\nRepair them, or set "
            "DATASETS.CHECK_LABELS skip to leave them out"
        )
    for problem in bad:
        logger.warning("left out of %s: %s", name, problem)
    logger.info("%s: %d of %d images have good labels, %d are left out", name, total - len(bad), total, len(bad))
    return [record for record, problem in zip(records, found) if problem is None]


def _in_run(record: dict, places: list[int] | None, tasks: tuple[str, ...]) -> dict:
    """The record with the run's class indices; -1, a segment that is no class, stays."""
    record = dict(record) if tasks == TASKS else {**record, "tasks": tasks}
    if places is None or places == list(range(len(places))):
        return record
    for key in ("segments_info", "annotations"):
        if key in record:
            record[key] = [{**part, "category_id": _place(part["category_id"], places)} for part in record[key]]
    if "mask_files" in record:
        record["mask_files"] = [(path, places[index]) for path, index in record["mask_files"]]
    if "label_classes" in record:
        record["label_classes"] = {value: places[index] for value, index in record["label_classes"].items()}
    return record


def _place(index: int, places: list[int]) -> int:
    return places[index] if index >= 0 else index

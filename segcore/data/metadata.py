"""What a model, an evaluator and a visualiser need to know about a panoptic data set.

Category id: the number in the annotation file.
Class index: the position in `stuff_classes`, which lists every class, things
and stuff, in the order of the file's categories.  Models predict class indices.
"""

from __future__ import annotations

from collections.abc import Sequence

TASKS = ("panoptic", "instance", "semantic")


def checked_tasks(tasks: Sequence[str], name: str) -> tuple[str, ...]:
    """The tasks that the labels of data set `name` serve, in the order of TASKS.

    Raises:
        ValueError: none, an unknown one, or one twice.
    """
    tasks = [tasks] if isinstance(tasks, str) else list(tasks)
    if not tasks or not set(tasks) <= set(TASKS) or len(set(tasks)) != len(tasks):
        raise ValueError(f"data set {name!r}: tasks must be some of {', '.join(TASKS)}, each once; got {tasks}")
    return tuple(task for task in TASKS if task in tasks)


def panoptic_metadata(
    categories: Sequence[dict],
    *,
    evaluator_type: str = "coco_panoptic_seg",
    ignore_label: int = 255,
    label_divisor: int = 1000,
    thing_classes: str = "all",
    stuff_ids: str = "all",
) -> dict:
    """Detectron2's metadata fields for a list of COCO panoptic categories.

    Args:
        categories: dicts with `id`, `name`, `isthing` and optionally `color` (RGB).
        evaluator_type: tells benchmarks apart that measure in their own way.
        ignore_label: value of unlabelled pixels in a label map.
        label_divisor: Detectron2's factor between class and instance in encoded ids.
        thing_classes: "all" lists every class under `thing_classes`, so that the
            list is indexed by class index; "things" lists the things alone, for
            benchmarks that number their things apart.
        stuff_ids: "all" maps every category id under
            `stuff_dataset_id_to_contiguous_id`; "stuff" leaves the things out.

    Raises:
        ValueError: for an empty list, repeated ids, or a category without id or name.
    """
    _check_categories(categories)
    names = [c["name"] for c in categories]
    colors = [list(c.get("color") or _color(i)) for i, c in enumerate(categories)]
    things = [i for i, c in enumerate(categories) if c["isthing"]]
    listed = things if thing_classes == "things" else range(len(names))
    mapped = [i for i, c in enumerate(categories) if stuff_ids == "all" or not c["isthing"]]
    fields = {
        "stuff_classes": names,
        "stuff_colors": colors,
        "thing_classes": [names[i] for i in listed],
        "thing_colors": [colors[i] for i in listed],
        "thing_dataset_id_to_contiguous_id": {categories[i]["id"]: i for i in things},
        "stuff_dataset_id_to_contiguous_id": {categories[i]["id"]: i for i in mapped},
        "ignore_label": ignore_label,
        "label_divisor": label_divisor,
        "evaluator_type": evaluator_type,
    }
    if evaluator_type == "ade20k_panoptic_seg":
        # ADE20K's instance benchmark numbers its 100 classes apart from the 150.
        fields["instance_class_map"] = {index: i for i, index in enumerate(things)}
    return fields


def class_index_of(metadata) -> dict[int, int]:
    """Category id -> class index, of things and stuff together (`metadata` is a Detectron2 Metadata)."""
    return {
        **metadata.stuff_dataset_id_to_contiguous_id,
        **metadata.thing_dataset_id_to_contiguous_id,
    }


def _check_categories(categories: Sequence[dict]) -> None:
    if not categories:
        raise ValueError("a panoptic data set needs at least one category, got none")
    for category in categories:
        lacking = {"id", "name", "isthing"} - category.keys()
        if lacking:
            raise ValueError(f"category {category} has no {', '.join(sorted(lacking))}")
    ids = [c["id"] for c in categories]
    if len(set(ids)) != len(ids):
        raise ValueError(f"category ids must differ, got {sorted(ids)}")


def _color(index: int) -> tuple[int, int, int]:
    """A distinct colour per index: the bits of `index` spread over R, G and B, highest first."""
    channels = [0, 0, 0]
    value = index + 1
    for bit in range(7, -1, -1):
        for channel in range(3):
            channels[channel] |= (value >> channel & 1) << bit
        value >>= 3
    return tuple(channels)

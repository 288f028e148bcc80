"""A panoptic annotation as the targets of one task (OneFormer, arXiv:2211.06220, sec. 3.1).

semantic: the segments of a class are one target.  instance: each thing.
panoptic: each segment.  Crowds, and segments without a pixel left, are no target.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from segcore.data.segments import one_hot

from ..tasks import INSTANCE, SEMANTIC


class Targets(NamedTuple):
    """`classes` (N,) int64 class indices; `masks` (N, H, W) bool; `sem_seg` (H, W) int64 class indices."""

    classes: np.ndarray
    masks: np.ndarray
    sem_seg: np.ndarray


def make_targets(
    indices: np.ndarray,
    segments_info: Sequence[dict],
    task: str,
    thing_ids: Collection[int],
    ignore_label: int,
) -> Targets:
    """The targets of `task` in the order of `segments_info`.

    Args:
        indices: (H, W) uint8 or uint16; 0 = void, i + 1 = `segments_info[i]`.
        segments_info: dicts with category_id (class index) and iscrowd.
        task: "semantic", "instance" or "panoptic".
        thing_ids: class indices of the things.
        ignore_label: value in `sem_seg` of pixels that no target covers.

    Returns:
        Targets; with no segment at all, N is 0.
    """
    pixels = np.bincount(indices.ravel(), minlength=len(segments_info) + 1)
    targets, slot_of_index = _assign_slots(pixels[1:], segments_info, task, thing_ids)
    # One look-up gives every pixel the number of its target, or len(targets) for none.
    table = np.full(len(segments_info) + 1, len(targets), indices.dtype if len(targets) <= 255 else np.uint16)
    for index, slot in slot_of_index.items():
        table[index] = slot
    slots = table[indices]
    labels = np.array([*targets, ignore_label], np.int64)
    return Targets(labels[:-1], one_hot(slots, len(targets)), labels[slots])


def join_targets(layers: Sequence[Targets], ignore_label: int) -> Targets:
    """The targets of all layers of one image; where layers overlap, `sem_seg` has the first one's class."""
    if len(layers) == 1:
        return layers[0]
    sem_seg = layers[0].sem_seg
    for layer in layers[1:]:
        sem_seg = np.where(sem_seg == ignore_label, layer.sem_seg, sem_seg)
    classes, masks, _ = zip(*layers)
    return Targets(np.concatenate(classes), np.concatenate(masks), sem_seg)


def _assign_slots(
    pixels: np.ndarray, segments_info: Sequence[dict], task: str, thing_ids: Collection[int]
) -> tuple[list[int], dict[int, int]]:
    """The class of each target, and the target of each index in the map."""
    classes: list[int] = []
    slot_of_index: dict[int, int] = {}
    slot_of_class: dict[int, int] = {}
    for index, segment in enumerate(segments_info, start=1):
        category = segment["category_id"]
        if segment["iscrowd"] or not pixels[index - 1] or (task == INSTANCE and category not in thing_ids):
            continue
        if task == SEMANTIC and category in slot_of_class:
            slot_of_index[index] = slot_of_class[category]
            continue
        slot_of_index[index] = slot_of_class[category] = len(classes)
        classes.append(category)
    return classes, slot_of_index

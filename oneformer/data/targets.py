"""A panoptic annotation as the targets of one task (OneFormer, arXiv:2211.06220, sec. 3.1).

semantic: the segments of a class are one target.  instance: each thing.
panoptic: each segment.  Crowds, and segments without a pixel left, are no target.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch

from segcore.data.images import contiguous
from segcore.masks import LayeredMasks

from ..tasks import INSTANCE, SEMANTIC


class Targets(NamedTuple):
    """`classes` (N,) int64 class indices; `masks` (N, H, W); `sem_seg` (H, W) class indices, uint8 or int32."""

    classes: np.ndarray
    masks: LayeredMasks
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
    indices = contiguous(indices)   # a flip leaves a view that OpenCV does not read
    present = _present(indices, len(segments_info) + 1)
    targets, slot_of_index = _assign_slots(present[1:], segments_info, task, thing_ids)
    # One look-up gives every pixel the number of its target, or len(targets) for none; one more its class.
    slots = np.full(len(present), len(targets), np.uint8 if len(targets) <= 255 else np.int32)
    for index, slot in slot_of_index.items():
        slots[index] = slot
    labels = np.array([*targets, ignore_label], np.int64)
    labels_of_slot = labels.astype(np.uint8 if labels.min() >= 0 and labels.max() <= 255 else np.int32)
    numbers = torch.arange(len(targets))
    masks = LayeredMasks(torch.from_numpy(_look_up(indices, slots)[None]), torch.zeros_like(numbers), numbers)
    return Targets(labels[:-1], masks, _look_up(indices, labels_of_slot[slots]))


def join_targets(layers: Sequence[Targets], ignore_label: int) -> Targets:
    """The targets of all layers of one image; where layers overlap, `sem_seg` has the first one's class."""
    if len(layers) == 1:
        return layers[0]
    sem_seg = layers[0].sem_seg
    for layer in layers[1:]:
        sem_seg = np.where(sem_seg == ignore_label, layer.sem_seg, sem_seg)
    classes, masks, _ = zip(*layers)
    return Targets(np.concatenate(classes), LayeredMasks.join(masks), sem_seg)


def _present(indices: np.ndarray, count: int) -> np.ndarray:
    """(count,) bool: which of the numbers 0 .. count - 1 have a pixel."""
    if indices.dtype == np.uint8:   # four times as fast as np.bincount, which makes them int64 first
        return cv2.calcHist([indices], [0], None, [256], [0, 256]).ravel()[:count] > 0
    return np.bincount(indices.ravel(), minlength=count) > 0


def _look_up(indices: np.ndarray, table: np.ndarray) -> np.ndarray:
    """table[indices]; for bytes by the look-up that is made for it."""
    if indices.dtype == table.dtype == np.uint8:
        whole = np.zeros(256, np.uint8)
        whole[: len(table)] = table
        return cv2.LUT(indices, whole)
    return np.take(table, indices)


def _assign_slots(
    present: np.ndarray, segments_info: Sequence[dict], task: str, thing_ids: Collection[int]
) -> tuple[list[int], dict[int, int]]:
    """The class of each target, and the target of each index in the map."""
    classes: list[int] = []
    slot_of_index: dict[int, int] = {}
    slot_of_class: dict[int, int] = {}
    for index, segment in enumerate(segments_info, start=1):
        category = segment["category_id"]
        if segment["iscrowd"] or not present[index - 1] or (task == INSTANCE and category not in thing_ids):
            continue
        if task == SEMANTIC and category in slot_of_class:
            slot_of_index[index] = slot_of_class[category]
            continue
        slot_of_index[index] = slot_of_class[category] = len(classes)
        classes.append(category)
    return classes, slot_of_index

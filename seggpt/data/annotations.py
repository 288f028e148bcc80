"""A record's labels as one integer map, from any kind of annotation that a Detectron2 record can hold.

A label map is (H, W) int32: 0 background, VOID unlabelled (never in the loss), else a label:
    by category: class index + 1        by instance: number of the segment in the record + 1

Read, in this order of preference:
    pan_seg_file_name + segments_info   COCO panoptic PNG
    annotations or mask_files           COCO instances or a mask file each; what none covers is background
    sem_seg_file_name                   label PNG: of class indices, or of values that "label_classes" maps
    mask_file_name                      binary mask: not 0 (or from "mask_threshold" on) = the record's
                                        "category_id" (default 0)
"""

from __future__ import annotations

import numpy as np

from segcore.data.images import read_image, read_label_png, read_panoptic_ids
from segcore.data.layers import apply_label_classes, read_instances
from segcore.data.segments import index_map

VOID = -1


def read_label_map(
    record: dict, size: tuple[int, int], *, by_instance: bool, things_only: bool = False, ignore_label: int = 255
) -> np.ndarray:
    """The label map of a record.

    Args:
        record: a Detectron2 dataset dict with one of the annotations above.
        size: (H, W) of its picture.
        by_instance: label every object for itself; crowds are then void and stuff is background.
        things_only: by category: stuff is background.
        ignore_label: of label PNGs.

    Raises:
        FileNotFoundError: a file that the record names is missing.
        ValueError: the record has no annotation of a kind that can be read so, or it is damaged, or of
            another size than its picture.
    """
    if "pan_seg_file_name" in record and "segments_info" in record:
        labels = _from_panoptic(record, by_instance, things_only)
    elif "annotations" in record or "mask_files" in record:
        labels = _from_instances(record, size, by_instance)
    elif by_instance or things_only:
        raise ValueError(
            f"{record['file_name']} has no instances (only {_kinds(record)}); use it by category, with "
            "INPUT.EPISODES.INSTANCE_PROB 0 and THINGS_ONLY False"
        )
    elif "sem_seg_file_name" in record:
        labels = _from_label_png(record, ignore_label)
    elif "mask_file_name" in record:
        mask = _read_binary(record["mask_file_name"], record.get("mask_threshold", 1))
        labels = np.where(mask, record.get("category_id", 0) + 1, 0).astype(np.int32)
    else:
        raise ValueError(
            f"{record['file_name']} has no annotation; expected pan_seg_file_name with segments_info, "
            "annotations, mask_files, sem_seg_file_name or mask_file_name"
        )
    if labels.shape != tuple(size):
        raise ValueError(
            f"the labels of {record['file_name']} are {labels.shape[1]}x{labels.shape[0]} pixels, its picture "
            f"{size[1]}x{size[0]}"
        )
    return labels


def categories_of(record: dict, things_only: bool = False) -> set[int] | None:
    """The class indices that a record shows, as far as it says so without its files being read; else None.

    A record may list them itself, under "categories".
    """
    if "categories" in record:
        return set(record["categories"])
    if "segments_info" in record:
        return {s["category_id"] for s in record["segments_info"] if s.get("isthing", True) or not things_only}
    if "annotations" in record:
        return {a["category_id"] for a in record["annotations"]}
    if "mask_files" in record:
        return {category for _, category in record["mask_files"]}
    if "mask_file_name" in record:
        return {record.get("category_id", 0)}
    return None


def _read_binary(path: str, threshold: int) -> np.ndarray:
    if threshold == 1:
        return read_label_png(path) > 0
    return read_image(path, "RGB").mean(2) >= threshold  # soft edges, and often three equal channels


def _kinds(record: dict) -> str:
    return ", ".join(sorted(k for k in record if k.endswith("file_name") and k != "file_name")) or "no annotation"


def _from_panoptic(record: dict, by_instance: bool, things_only: bool) -> np.ndarray:
    segments = record["segments_info"]
    path = record["pan_seg_file_name"]
    indices = index_map(read_panoptic_ids(path), [s["id"] for s in segments], path)
    table = [VOID, *(_label_of(s, i, by_instance, things_only) for i, s in enumerate(segments))]
    return np.array(table, np.int32)[indices]


def _label_of(segment: dict, number: int, by_instance: bool, things_only: bool) -> int:
    thing = segment.get("isthing", True)
    if (by_instance or things_only) and not thing:
        return 0
    if not by_instance:
        return segment["category_id"] + 1
    return VOID if segment.get("iscrowd") else number + 1


def _from_instances(record: dict, size: tuple[int, int], by_instance: bool) -> np.ndarray:
    labels = np.zeros(size, np.int32)
    instances = list(read_instances(record, size))
    # Crowds first: where a labelled object covers a crowd, the object counts.
    for number in sorted(range(len(instances)), key=lambda i: not instances[i].iscrowd):
        mask, category, crowd = instances[number]
        labels[mask] = (VOID if crowd else number + 1) if by_instance else category + 1
    return labels


def _from_label_png(record: dict, ignore_label: int) -> np.ndarray:
    labels = read_label_png(record["sem_seg_file_name"]).astype(np.int32)
    if "label_classes" in record:
        classes = apply_label_classes(labels, record)
        return np.where(classes < 0, VOID, classes + 1)
    return np.where(labels == ignore_label, VOID, labels + 1)

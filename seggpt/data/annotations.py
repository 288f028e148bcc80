"""A record's labels as one integer map, from any kind of annotation that a Detectron2 record can hold.

A label map is (H, W) int32: 0 background, VOID unlabelled (never in the loss), else a label:
    by category: class index + 1        by instance: number of the segment in the record + 1

Read, in this order of preference:
    pan_seg_file_name + segments_info   COCO panoptic PNG
    annotations                         COCO instances: polygons or RLE; what none covers is background
    sem_seg_file_name                   label PNG of class indices (classes, parts, vessels, ...)
    mask_file_name                      binary mask: not 0 = the record's "category_id" (default 0)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.data import detection_utils
from pycocotools import mask as coco_mask

from segcore.data.images import read_panoptic_ids
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
    elif "annotations" in record:
        labels = _from_instances(record["annotations"], size, by_instance)
    elif by_instance or things_only:
        raise ValueError(
            f"{record['file_name']} has no instances (only {_kinds(record)}); use it by category, with "
            "INPUT.EPISODES.INSTANCE_PROB 0 and THINGS_ONLY False"
        )
    elif "sem_seg_file_name" in record:
        labels = _from_label_png(record["sem_seg_file_name"], ignore_label)
    elif "mask_file_name" in record:
        mask = _read_grey(record["mask_file_name"]) > 0
        labels = np.where(mask, record.get("category_id", 0) + 1, 0).astype(np.int32)
    else:
        raise ValueError(
            f"{record['file_name']} has no annotation; expected pan_seg_file_name with segments_info, "
            "annotations, sem_seg_file_name or mask_file_name"
        )
    if labels.shape != tuple(size):
        raise ValueError(
            f"the labels of {record['file_name']} are {labels.shape[1]}x{labels.shape[0]} pixels, its picture "
            f"{size[1]}x{size[0]}"
        )
    return labels


def categories_of(record: dict, things_only: bool = False) -> set[int] | None:
    """The class indices that a record shows, as far as it says so without its files being read; else None."""
    if "segments_info" in record:
        return {s["category_id"] for s in record["segments_info"] if s.get("isthing", True) or not things_only}
    if "annotations" in record:
        return {a["category_id"] for a in record["annotations"]}
    if "mask_file_name" in record:
        return {record.get("category_id", 0)}
    return None


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


def _from_instances(annotations: Sequence[dict], size: tuple[int, int], by_instance: bool) -> np.ndarray:
    labels = np.zeros(size, np.int32)
    # Crowds first: where a labelled object covers a crowd, the object counts.
    for number in sorted(range(len(annotations)), key=lambda i: not annotations[i].get("iscrowd")):
        annotation = annotations[number]
        crowd = annotation.get("iscrowd")
        label = (VOID if crowd else number + 1) if by_instance else annotation["category_id"] + 1
        labels[_decode(annotation["segmentation"], size)] = label
    return labels


def _decode(segmentation, size: tuple[int, int]) -> np.ndarray:
    """Polygons, or RLE compressed or not, as a bool mask."""
    if isinstance(segmentation, np.ndarray):
        return segmentation.astype(bool)
    if isinstance(segmentation, dict):
        rle = segmentation
        if isinstance(rle["counts"], list):
            rle = coco_mask.frPyObjects(rle, *size)
        return coco_mask.decode(rle).astype(bool)
    return detection_utils.polygons_to_bitmask(segmentation, *size).astype(bool)


def _from_label_png(path: str, ignore_label: int) -> np.ndarray:
    labels = _read_grey(path).astype(np.int32)
    return np.where(labels == ignore_label, VOID, labels + 1)


def _read_grey(path: str) -> np.ndarray:
    """A picture of one channel, as it is stored."""
    try:
        with open(path, "rb") as file:
            values = np.asarray(detection_utils.Image.open(file))
    except FileNotFoundError:
        raise FileNotFoundError(f"label picture {path} does not exist") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ValueError(f"cannot read the label picture {path}: {error}; the file is damaged, restore it") from error
    if values.ndim != 2:
        raise ValueError(f"{path} has shape {values.shape}; a label picture has one channel")
    return values

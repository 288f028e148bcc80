"""Any kind of label of one image as index maps that augmentations can move.

A layer is an index map (segcore.data.segments) with what its numbers mean: 0 is
void, i + 1 is the i-th entry of `segments`.  Panoptic and semantic labels are one
layer; instances that overlap are spread over several, so that none loses a pixel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pycocotools.mask as mask_api

from .images import read_label_png, read_panoptic_ids
from .segments import index_map


class Layer(NamedTuple):
    """indices: (H, W) uint8 or uint16; segments: [{category_id (class index), iscrowd}]."""

    indices: np.ndarray
    segments: list[dict]


class Instance(NamedTuple):
    """mask: (H, W) bool; category: class index."""

    mask: np.ndarray
    category: int
    iscrowd: int


def read_layers(record: dict, size: tuple[int, int]) -> list[Layer]:
    """The label of a dataset dict, at least one layer.

    Args:
        record: has pan_seg_file_name and segments_info, or label_classes and sem_seg_file_name, or
            annotations, or mask_files; see the loaders.
        size: (height, width) of its image.

    Raises:
        FileNotFoundError, ValueError: the label is missing, damaged, of another size or of unknown values.
    """
    if "label_classes" in record:
        return [_read_semantic(record, size)]
    if "annotations" in record or "mask_files" in record:
        return stack_instances([*read_instances(record, size)], size)
    lacking = {"pan_seg_file_name", "segments_info"} - record.keys()
    if lacking:
        raise ValueError(
            f"{record['file_name']} has no {', '.join(sorted(lacking))}; training needs panoptic labels, "
            f"label PNGs, COCO annotations or masks"
        )
    return [_read_panoptic(record, size)]


def read_instances(record: dict, size: tuple[int, int]) -> Iterator[Instance]:
    """The instances of a dataset dict with annotations or mask_files, one by one.

    Raises:
        FileNotFoundError, ValueError: as for `read_layers`; an object without a pixel is an error too.
    """
    if "annotations" in record:
        for annotation in record["annotations"]:
            mask = _decode(annotation, size, record["file_name"])
            yield Instance(mask, annotation["category_id"], annotation.get("iscrowd", 0))
        return
    for path, category in record["mask_files"]:
        values = _read_mask(path, record["mask_values"])
        _check_size(path, values.shape, record["file_name"], size)
        if record["mask_values"] == "binary":
            if not values.any():
                raise ValueError(f"the mask {path} has no pixel; remove it")
            yield Instance(values != 0, category, 0)
        else:
            yield from (Instance(values == i, category, 0) for i in np.unique(values[values != 0]))


def stack_instances(instances: Sequence[Instance], size: tuple[int, int]) -> list[Layer]:
    """As few layers as a greedy search finds, each of instances that do not touch a common pixel."""
    maps: list[np.ndarray] = [np.zeros(size, np.uint16)]
    segments: list[list[dict]] = [[]]
    for instance in instances:
        free = (number for number, indices in enumerate(maps) if not indices[instance.mask].any())
        number = next(free, len(maps))
        if number == len(maps):
            maps.append(np.zeros(size, np.uint16))
            segments.append([])
        segments[number].append({"category_id": instance.category, "iscrowd": instance.iscrowd})
        maps[number][instance.mask] = len(segments[number])
    return [
        Layer(indices.astype(np.uint8) if len(listed) <= 255 else indices, listed)
        for indices, listed in zip(maps, segments)
    ]


def apply_label_classes(labels: np.ndarray, record: dict) -> np.ndarray:
    """Label values -> class indices, -1 where the label says to ignore.

    Args:
        labels: (H, W) uint8 or int32.
        record: label_classes {value: class index}, ignored_labels, sem_seg_file_name.

    Raises:
        ValueError: a value that is neither a class nor ignored.
    """
    present = np.unique(labels)
    classes, ignored = record["label_classes"], set(record["ignored_labels"])
    unknown = [value for value in present.tolist() if value not in classes and value not in ignored]
    if unknown:
        raise ValueError(
            f"{record['sem_seg_file_name']} has the label values {unknown[:10]}, which are no class "
            f"(those are {_ranges(classes)}); list them under classes or ignore"
        )
    table = np.full(int(present[-1]) + 1, -1, np.int32)
    for value in present.tolist():
        table[value] = classes.get(value, -1)
    return table[labels]


def _read_panoptic(record: dict, size: tuple[int, int]) -> Layer:
    path, segments = record["pan_seg_file_name"], record["segments_info"]
    ids = read_panoptic_ids(path)
    _check_size(path, ids.shape, record["file_name"], size)
    return Layer(index_map(ids, [segment["id"] for segment in segments], path), segments)


def _read_semantic(record: dict, size: tuple[int, int]) -> Layer:
    path = record["sem_seg_file_name"]
    labels = read_label_png(path)
    _check_size(path, labels.shape, record["file_name"], size)
    classes = apply_label_classes(labels, record)
    count = max(record["label_classes"].values()) + 1
    indices = (classes + 1).astype(np.uint8 if count <= 255 else np.uint16)
    if not indices.any():
        raise ValueError(f"{path} labels no pixel: all of it is to be ignored; remove the image")
    return Layer(indices, [{"category_id": index, "iscrowd": 0} for index in range(count)])


def _read_mask(path: str, values: str) -> np.ndarray:
    """A mask or id picture; ids may also be the colours of an RGB picture, as in COCO panoptic PNGs."""
    try:
        return read_label_png(path)
    except ValueError:
        if values != "ids":
            raise
        return read_panoptic_ids(path)


def _decode(annotation: dict, size: tuple[int, int], image: str) -> np.ndarray:
    """(H, W) bool of a COCO annotation: polygons, RLE as a list, RLE as text."""
    segmentation = annotation["segmentation"]
    where = f"annotation {annotation.get('id')} of {image}"
    if isinstance(segmentation, list):
        wrong = [p for p in segmentation if not isinstance(p, list) or len(p) < 6 or len(p) % 2]
        if wrong or not segmentation:
            raise ValueError(
                f"{where} has a polygon of {_describe(wrong)}; a polygon is a list of x, y of at least 3 points"
            )
        rle = mask_api.merge(mask_api.frPyObjects(segmentation, *size))
    elif isinstance(segmentation, dict) and {"size", "counts"} <= segmentation.keys():
        if tuple(segmentation["size"]) != tuple(size):
            raise ValueError(
                f"{where} has an RLE of size {list(segmentation['size'])} (height, width), the image is {list(size)}"
            )
        listed = isinstance(segmentation["counts"], list)
        if listed and sum(segmentation["counts"]) != size[0] * size[1]:
            raise ValueError(
                f"{where} has an RLE of {sum(segmentation['counts'])} pixels, the image has {size[0] * size[1]}"
            )
        rle = mask_api.frPyObjects(segmentation, *size) if listed else segmentation
    else:
        raise ValueError(f"{where} has a segmentation that is neither polygons nor RLE: {segmentation!r:.80}")
    mask = mask_api.decode(rle).astype(bool)
    if not mask.any():
        raise ValueError(f"{where} covers no pixel of the image; remove it")
    return mask


def _describe(wrong: list) -> str:
    first = wrong[0] if wrong else []
    return f"{len(first)} numbers" if isinstance(first, list) else f"the form {first!r:.40}"


def _check_size(path: str, found: tuple[int, ...], image: str, size: tuple[int, int]) -> None:
    if tuple(found) != tuple(size):
        raise ValueError(f"{path} is {found[0]}x{found[1]} (height x width), its image {image} is {size[0]}x{size[1]}")


def _ranges(values) -> str:
    values = sorted(values)
    whole = values == list(range(values[0], values[-1] + 1)) and len(values) > 2
    return f"{values[0]} to {values[-1]}" if whole else ", ".join(map(str, values))

"""What people have as a mask, turned into a label map: (H, W) int32, 0 is background.

Accepted, for one picture of (H, W):
    bool (H, W)              one label, 1
    bool (N, H, W)           one label per mask, 1..N, later masks on top
    uint8 (H, W) of 0 / 255  the usual mask file: one label, 1
    integer (H, W)           label map; 255 is void (background) beside other labels
    uint8 (H, W, 3)          a painting on black: every colour is a label
    list of COCO annotations (dicts with "segmentation": polygons or RLE)
    PickedMasks              masks of another tool, and points inside of the wanted ones
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask

from seggpt.colours import MAX_LABELS, check_distinct
from seggpt.pictures import check_picture

VOID = 255


@dataclass(frozen=True)
class PickedMasks:
    """Masks that another tool proposes, and which of them are meant.

    Attributes:
        masks: bool (N, H, W), or an integer label map (H, W).
        points: (x, y) pixels, one per wanted object; each picks the smallest mask that it lies in.
    """

    masks: Any
    points: Sequence[tuple[float, float]]


def read_mask(mask: Any, size: tuple[int, int], kind: str, name: str = "mask") -> np.ndarray:
    """A mask of any accepted form as a label map, or as a painting where it is one.

    Args:
        size: (H, W) of its picture.
        kind: "instance" or "semantic": a COCO annotation's label is its number in the list, or its category.
        name: how errors call it.

    Returns:
        (H, W) int32 labels, or (H, W, 3) uint8 colours.

    Raises:
        TypeError, ValueError: for anything else, another size, or a mask without a marked pixel.
    """
    if isinstance(mask, PickedMasks):
        labels = _pick(mask, size, name)
    elif isinstance(mask, (list, tuple)) and (not mask or isinstance(mask[0], dict)):
        labels = _draw_annotations(mask, size, kind, name)
    else:
        labels = _read_array(_as_array(mask, name), name)
    if labels.shape[:2] != tuple(size):
        raise ValueError(
            f"{name} is {labels.shape[1]}x{labels.shape[0]} pixels but its image {size[1]}x{size[0]}; "
            "resize it (nearest neighbour) to the image's size"
        )
    if not labels.any():
        raise ValueError(f"{name} is empty: no pixel is marked, so there is nothing to learn from it")
    return labels


def check_pairs(images: Any, masks: Any) -> tuple[list[np.ndarray], list[Any]]:
    """Prompt images and their masks, one or a list of each, as two lists of one length.

    Raises:
        TypeError, ValueError: if there are none or not as many masks as images, or an image is none.
    """
    if not isinstance(images, (list, tuple)):
        images, masks = [images], [masks]
    elif not isinstance(masks, (list, tuple)):
        raise TypeError(f"a list of images needs a list of masks; got a {type(masks).__name__}")
    if not images:
        raise ValueError("there is no prompt: give at least one image and its mask")
    if len(images) != len(masks):
        raise ValueError(f"{len(images)} prompt images but {len(masks)} masks; give one mask per image")
    return [check_picture(image, f"prompt image {i}") for i, image in enumerate(images)], list(masks)


def unify(masks: Sequence[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray, np.ndarray | None]:
    """Give the masks of several prompts common labels.

    Returns:
        (label maps, labels (n,) int64 ascending, their colours (n, 3) uint8 or None if not painted).

    Raises:
        ValueError: if paintings and label maps are mixed, or painted colours are too close.
    """
    painted = {m.ndim == 3 for m in masks}
    if painted == {True, False}:
        raise ValueError("some masks are RGB paintings and some are label maps; give all in one form")
    if painted == {False}:
        labels = np.unique(np.concatenate([np.unique(m) for m in masks]))
        return list(masks), labels[labels > 0].astype(np.int64), None
    codes = [m.astype(np.int64) @ np.array([65536, 256, 1]) for m in masks]
    found = np.unique(np.concatenate([np.unique(c) for c in codes]))
    found = found[found > 0]
    colours = np.stack([found >> 16, found >> 8 & 255, found & 255], 1).astype(np.uint8)
    check_distinct(colours)
    labels = np.arange(1, len(found) + 1)
    maps = [np.where(c > 0, np.searchsorted(found, c) + 1, 0).astype(np.int32) for c in codes]
    return maps, labels, colours


def _as_array(mask: Any, name: str) -> np.ndarray:
    if isinstance(mask, torch.Tensor):
        mask = mask.detach().cpu().numpy()
    if hasattr(mask, "mode") and hasattr(mask, "convert"):  # a PIL picture; palette indices are labels
        mask = np.asarray(mask)
    if not isinstance(mask, np.ndarray):
        raise TypeError(
            f"{name} is a {type(mask).__name__}; give a bool, integer or RGB array, a list of COCO "
            "annotations, or PickedMasks"
        )
    return mask


def _read_array(mask: np.ndarray, name: str) -> np.ndarray:
    if mask.ndim == 3 and mask.dtype == bool:
        return _stack(mask)
    if mask.ndim == 3:
        if mask.shape[2] != 3 or mask.dtype != np.uint8:
            raise ValueError(
                f"{name} has shape {mask.shape} and type {mask.dtype}; a painting is (H, W, 3) uint8 "
                "(drop an alpha channel), a stack of masks (N, H, W) bool"
            )
        grey = (mask == mask[..., :1]).all()
        return _read_array(np.ascontiguousarray(mask[..., 0]), name) if grey and _is_binary(mask) else mask
    if mask.ndim != 2:
        raise ValueError(f"{name} has shape {mask.shape}; expected (H, W), (H, W, 3) or (N, H, W)")
    if mask.dtype == bool:
        return mask.astype(np.int32)
    if not np.issubdtype(mask.dtype, np.integer):
        raise TypeError(f"{name} has type {mask.dtype}; probabilities must be thresholded first (mask > 0.5)")
    if mask.min(initial=0) < 0:
        raise ValueError(f"{name} has negative labels (down to {mask.min()}); background is 0")
    if _is_binary(mask):
        return (mask > 0).astype(np.int32)
    return np.where(mask == VOID, 0, mask).astype(np.int32)


def _is_binary(mask: np.ndarray) -> bool:
    return mask.dtype == np.uint8 and bool(((mask == 0) | (mask == VOID)).all())


def _stack(masks: np.ndarray) -> np.ndarray:
    if not len(masks):
        return np.zeros(masks.shape[1:], np.int32)
    number = np.arange(1, len(masks) + 1, dtype=np.int32)[:, None, None]
    return (masks * number).max(0)


def _draw_annotations(annotations: Sequence[dict], size: tuple[int, int], kind: str, name: str) -> np.ndarray:
    labels = np.zeros(size, np.int32)
    for i, annotation in enumerate(annotations):
        shape = annotation.get("segmentation")
        if not shape:
            raise ValueError(f"{name}: annotation {i} has no 'segmentation' (polygons or RLE)")
        if kind == "semantic" and not annotation.get("category_id", 0) > 0:
            raise ValueError(
                f"{name}: annotation {i} needs a positive 'category_id' to be a category prompt; "
                f"got {annotation.get('category_id')}"
            )
        label = annotation["category_id"] if kind == "semantic" else i + 1
        labels[_decode_segmentation(shape, size, f"{name}: annotation {i}")] = label
    return labels


def _decode_segmentation(shape, size: tuple[int, int], name: str) -> np.ndarray:
    if isinstance(shape, list):
        if any(len(p) < 6 or len(p) % 2 for p in shape):
            raise ValueError(
                f"{name}: a polygon is a flat list x1, y1, x2, y2, ... of at least three corners"
            )
        runs = coco_mask.merge(coco_mask.frPyObjects([[float(c) for c in p] for p in shape], *size))
    else:
        runs = coco_mask.frPyObjects(shape, *size) if isinstance(shape["counts"], list) else shape
    if tuple(runs["size"]) != tuple(size):
        raise ValueError(
            f"{name}: its RLE is for {runs['size'][1]}x{runs['size'][0]} pixels, the image has "
            f"{size[1]}x{size[0]}"
        )
    return coco_mask.decode(runs).astype(bool)


def _pick(picked: PickedMasks, size: tuple[int, int], name: str) -> np.ndarray:
    masks = _as_array(picked.masks, name)
    if masks.ndim == 2:
        masks = np.stack([masks == label for label in np.unique(masks[masks > 0])])
    if masks.ndim != 3 or masks.dtype != bool or masks.shape[1:] != tuple(size):
        raise ValueError(
            f"{name}: masks to pick from must be bool (N, {size[0]}, {size[1]}) or such a label map; "
            f"got {masks.dtype} {masks.shape}"
        )
    if not len(picked.points):
        raise ValueError(f"{name}: no points to pick masks with")
    areas, labels = masks.sum((1, 2)), np.zeros(size, np.int32)
    for number, (x, y) in enumerate(picked.points, 1):
        column, row = int(x), int(y)
        if not (0 <= row < size[0] and 0 <= column < size[1]):
            raise ValueError(f"{name}: point ({x}, {y}) is outside of the {size[1]}x{size[0]} image")
        hit = np.flatnonzero(masks[:, row, column])
        if not len(hit):
            raise ValueError(f"{name}: point ({x}, {y}) lies in none of the {len(masks)} masks")
        labels[masks[hit[areas[hit].argmin()]]] = number
    return labels


def check_count(count: int, separate: bool) -> None:
    """Raise ValueError for more labels than one painting can hold, unless each has its own."""
    if count > MAX_LABELS and not separate:
        raise ValueError(
            f"{count} labels, but a painting tells at most {MAX_LABELS} colours apart; split them over "
            "several prompts, or pass separate=True (one pass per label)"
        )

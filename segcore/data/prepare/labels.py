"""Reading the label files of the downloads, and describing a segment as COCO does."""

from __future__ import annotations

import os

import numpy as np
import pycocotools.mask as mask_api
from PIL import Image

from ..images import read_panoptic_ids, read_pixels

_DAMAGED = (OSError, SyntaxError, EOFError)


def image_size(path: str) -> tuple[int, int]:
    """(height, width) of an image file, from its header.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no picture.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"image {path} does not exist")
    try:
        with Image.open(path) as picture:
            return picture.height, picture.width
    except _DAMAGED as error:
        raise ValueError(f"cannot read the image {path}: {error}; download it again") from error


def read_labels(path: str, size: tuple[int, int] | None, channels: int, bits: int = 8) -> np.ndarray:
    """A label picture.

    Args:
        path: the file.
        size: (height, width) that it must have; None takes any.
        channels: 1: (H, W), of a grey or palette picture; 3: (H, W, 3).
        bits: 8 or 16 per channel.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, or has other channels, bits or another size.
    """
    mode, values = read_pixels(path, "label", "download it again")
    wide = mode.startswith("I")
    if values.ndim != (2 if channels == 1 else 3) or mode == "1" or mode == "F":
        raise ValueError(f"label {path} has mode {mode}; expected {channels} channel(s) of {bits} bits")
    if wide != (bits == 16):
        raise ValueError(f"label {path} has {16 if wide else 8} bits per pixel; expected {bits}")
    if size is not None and values.shape[:2] != size:
        raise ValueError(
            f"label {path} is {values.shape[0]}x{values.shape[1]} (height x width), its image {size[0]}x{size[1]}"
        )
    return values


def read_panoptic(path: str, listed: list[dict]) -> np.ndarray:
    """(H, W) ids of a panoptic PNG, of which every one but 0 must be among the segments of the JSON.

    Raises:
        FileNotFoundError, ValueError: as `read_panoptic_ids`; or an id that is not listed.
    """
    ids = read_panoptic_ids(path)
    unknown = np.setdiff1d(np.unique(ids), [0, *(segment["id"] for segment in listed)])
    if unknown.size:
        raise ValueError(f"{path} shows segment ids {unknown[:10].tolist()} that its JSON does not list")
    return ids


def segment(number: int, category: int, mask: np.ndarray, iscrowd: int = 0) -> dict:
    """The JSON's entry of a segment: id, category, area, tight box x, y, width, height."""
    return {
        "id": number,
        "category_id": int(category),
        "area": int(np.count_nonzero(mask)),
        "bbox": tight_box(mask),
        "iscrowd": iscrowd,
    }


def instance(category: int, mask: np.ndarray, iscrowd: int = 0) -> dict:
    """The JSON's entry of an instance, without its id and its image's; the mask as RLE."""
    rle = mask_api.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {
        "iscrowd": iscrowd,
        "category_id": int(category),
        "bbox": tight_box(mask),
        "segmentation": {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")},
        "area": int(np.count_nonzero(mask)),
    }


def tight_box(mask: np.ndarray) -> list[int]:
    """x, y, width, height of a mask that has a pixel."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [
        int(columns[0]),
        int(rows[0]),
        int(columns[-1] - columns[0] + 1),
        int(rows[-1] - rows[0] + 1),
    ]


def ids_to_rgb(ids: np.ndarray) -> np.ndarray:
    """(H, W) ids -> (H, W, 3) uint8, id = R + 256 G + 65536 B."""
    return np.ascontiguousarray(ids.astype("<u4")[..., None].view(np.uint8)[..., :3])


def instances_json(records: list[dict], categories: list[dict]) -> dict:
    """Records {"image": ..., "annotations": [...]} -> COCO instance JSON; annotation ids count from 1."""
    annotations = [
        {"id": number, "image_id": image_id, **annotation}
        for number, (image_id, annotation) in enumerate(
            ((r["image"]["id"], a) for r in records for a in r["annotations"]), start=1
        )
    ]
    return {"images": [r["image"] for r in records], "categories": categories, "annotations": annotations}


def panoptic_json(records: list[dict], categories: list[dict]) -> dict:
    """Records {"image": ..., "annotation": ...} -> COCO panoptic JSON."""
    return {
        "images": [r["image"] for r in records],
        "annotations": [r["annotation"] for r in records],
        "categories": categories,
    }

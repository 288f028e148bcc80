"""Answers on disk and for the eye: mask PNGs, overlays, overlay videos, the joint picture."""

from __future__ import annotations

import os
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segcore.checkpoint.files import atomic_path
from seggpt.colours import davis_palette


def save_label_map(path: str | os.PathLike, label_map: np.ndarray) -> None:
    """Write (H, W) labels as a PNG, whole or not at all: palette in DAVIS's colours up to label 255, else 16-bit grey.

    Raises:
        ValueError: for labels outside of 0..65535.
    """
    top = int(label_map.max(initial=0))
    if label_map.min(initial=0) < 0 or top > 65535:
        raise ValueError(f"a PNG holds labels 0 to 65535; got up to {top}")
    picture = Image.fromarray(label_map.astype(np.uint16 if top > 255 else np.uint8))
    if top <= 255:
        picture.putpalette(davis_palette())
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")


def label_colours(labels: Sequence[int]) -> np.ndarray:
    """(n, 3) uint8, DAVIS's colour of each label (they repeat after 255)."""
    table = np.array(davis_palette(), np.uint8).reshape(-1, 3)
    return table[(np.asarray(labels, np.int64) - 1) % 255 + 1]


def overlay(image: np.ndarray, label_map: np.ndarray, strength: float = 0.55) -> np.ndarray:
    """The picture (H, W, 3) with each label tinted in its colour and outlined."""
    out = image.astype(np.float32)
    for label in np.unique(label_map[label_map > 0]):
        mask = label_map == label
        colour = label_colours([label])[0].astype(np.float32)
        out[mask] = out[mask] * (1 - strength) + colour * strength
        inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
        out[mask & ~inner] = 255
    return out.astype(np.uint8)


def joint_picture(
    prompts: Sequence[tuple[np.ndarray, np.ndarray]],
    results: Sequence[tuple[np.ndarray, np.ndarray]],
    height: int = 240,
) -> np.ndarray:
    """One picture for the eye: prompts, their masks, and below each other what came of them.

    Args:
        prompts: (image, label map) pairs; the first few are shown.
        results: (image, label map) pairs.

    Returns:
        (H, W, 3) uint8: a row of prompt and mask for each prompt, then image and overlay for each result.
    """
    rows = [[("prompt", image), ("its mask", _coloured(labels))] for image, labels in prompts[:4]]
    rows += [[("image", image), ("result", overlay(image, labels))] for image, labels in results[:8]]
    drawn = [_row(cells, height) for cells in rows]
    width = max(row.shape[1] for row in drawn)
    drawn = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in drawn]
    return np.concatenate(drawn)


def _coloured(label_map: np.ndarray) -> np.ndarray:
    out = np.zeros((*label_map.shape, 3), np.uint8)
    for label in np.unique(label_map[label_map > 0]):
        out[label_map == label] = label_colours([label])[0]
    return out


def _row(cells: Sequence[tuple[str, np.ndarray]], height: int) -> np.ndarray:
    margin, title, parts = 6, 16, []
    for text, image in cells:
        width = max(1, round(image.shape[1] * height / image.shape[0]))
        cell = Image.new("RGB", (max(width, 60) + 2 * margin, height + title + margin), "white")
        cell.paste(Image.fromarray(image).resize((width, height)), (margin, title))
        ImageDraw.Draw(cell).text((margin, 2), text, fill="black", font=ImageFont.load_default())
        parts.append(np.asarray(cell))
    return np.concatenate(parts, 1)

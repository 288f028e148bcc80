"""A training sample of SegGPT as a picture: the canvas, its target, and what is shown of the target."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from segcore.data.inspect import Drawing
from segcore.visualization import grid
from segcore.visualization.legend import title

_VOID = 128      # grey: pixels whose target does not count
_LINE = 18       # of the text, pixels


def draw_sample(sample: dict, patch: int, channel_order: str = "RGB") -> np.ndarray:
    """A training input as a picture, side by side: the image; the target, void in grey; what is shown of the target.

    Args:
        sample: what the mapper returns in training: an episode (example above, question below), or, when a prompt
            is tuned, a question alone, which has no third picture.
        patch: side of the squares that the model hides, pixels.
        channel_order: of sample["image"], "RGB" or "BGR".

    Returns:
        (h, w, 3) uint8 RGB; hidden squares are black.
    """
    image = sample["image"].numpy().transpose(1, 2, 0)
    target = sample["target"].numpy().transpose(1, 2, 0)
    valid = sample["valid"].numpy().transpose(1, 2, 0) > 0
    target = np.where(valid, target, np.uint8(_VOID))
    pictures = [np.ascontiguousarray(image if channel_order == "RGB" else image[..., ::-1]), target]
    about = _kind(sample)
    if "mask" in sample:
        height, width = target.shape[:2]
        hidden = sample["mask"].numpy().reshape(height // patch, width // patch).astype(bool)
        hidden = hidden.repeat(patch, 0).repeat(patch, 1)
        pictures.append(np.where(hidden[..., None], np.uint8(0), target))
        about += f" episode, {hidden.mean():.0%} of the target hidden"
    panel = grid(pictures, len(pictures), gap=4, color=(255, 255, 255))
    return np.vstack([title(os.path.basename(sample["file_name"]), about, panel.shape[1], _LINE), panel])


def _kind(sample: dict) -> str:
    return ("category", "instance")[sample["seg_type"]] if "seg_type" in sample else "question"


def build_drawing(cfg) -> Callable[[dict], Drawing]:
    """How a training sample of this config is drawn; for `segcore.data.inspect`."""
    patch, channel_order = cfg.MODEL.SEGGPT.PATCH_SIZE, cfg.INPUT.FORMAT

    def draw(sample: dict) -> Drawing:
        kind = _kind(sample)
        height, width = sample["image"].shape[1:]
        colours = len(np.unique(sample["target"].numpy().reshape(3, -1), axis=1).T)
        about = f"{height}x{width}, {kind}: {colours} colours in the target"
        return Drawing(draw_sample(sample, patch, channel_order), kind, about)

    return draw

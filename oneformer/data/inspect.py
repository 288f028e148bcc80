"""A training sample of OneFormer as a picture: image, targets of the task that was drawn, texts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
from detectron2.data import MetadataCatalog

from segcore.data.inspect import Drawing
from segcore.predictions import Classes, InstanceResult, PanopticResult, Prediction
from segcore.visualization import grid, render
from segcore.visualization.legend import title

from ..tasks import INSTANCE, PANOPTIC

_SIDE = 640  # longest side of each of the two pictures, pixels
_LINE = 18   # of the text, pixels


def draw_sample(sample: dict, classes: Classes, channel_order: str = "RGB") -> np.ndarray:
    """A training input as a picture: image and targets side by side, the texts below.

    Args:
        sample: what the mapper returns in training.
        classes: of the run.
        channel_order: of sample["image"], "RGB" or "BGR".

    Returns:
        (h, w, 3) uint8 RGB.
    """
    image = sample["image"].numpy().transpose(1, 2, 0)
    image = np.ascontiguousarray(image if channel_order == "RGB" else image[..., ::-1])
    prediction, task = _as_prediction(sample, classes)
    blank = Prediction(prediction.size, classes, PanopticResult(np.zeros(prediction.size, np.int32), []))
    pictures = [render(image, blank, PANOPTIC, _SIDE), render(image, prediction, task, _SIDE)]
    panel = grid(pictures, 2, gap=4, color=(255, 255, 255))
    width = panel.shape[1]
    heading = title(os.path.basename(sample["file_name"]), f"drawn for the {sample['task']} task", width, _LINE)
    lines = [title("", line, width, _LINE) for line in _wrapped(text_counts(sample["text"]), width)]
    return np.vstack([heading, panel, *lines])


def text_counts(texts: list[str]) -> list[str]:
    """The distinct texts in order, with how often each comes."""
    return [f"{count} x {text!r}" for text, count in Counter(texts).items()]


def _as_prediction(sample: dict, classes: Classes) -> tuple[Prediction, str]:
    """The targets as a result that can be drawn, and the task to draw it as."""
    masks = sample["instances"].gt_masks.numpy()
    indices = sample["instances"].gt_classes.numpy()
    size = masks.shape[1:]
    if sample["task"] == INSTANCE:  # they may overlap
        names = [classes.names[i] for i in indices]
        boxes = np.zeros((len(masks), 4), np.float32)
        result = InstanceResult(masks, boxes, np.ones(len(masks), np.float32), indices, names)
        return Prediction(size, classes, instance=result), INSTANCE
    ids = np.zeros(size, np.int32)
    for number, mask in enumerate(masks, start=1):
        ids[mask] = number
    class_of = dict(enumerate(indices.tolist(), start=1))
    return Prediction(size, classes, panoptic=PanopticResult.from_map(ids, class_of, classes)), PANOPTIC


def _wrapped(words: list[str], width: int) -> Iterator[str]:
    """The words, comma separated, in lines that about fit `width` pixels."""
    line = ""
    for word in words:
        if line and len(line) + len(word) > width / (0.55 * _LINE):
            yield line
            line = ""
        line = f"{line}, {word}" if line else word
    yield line


def build_drawing(cfg) -> Callable[[dict], Drawing]:
    """How a training sample of this config is drawn; for `segcore.data.inspect`."""
    classes = Classes.from_metadata(MetadataCatalog.get(cfg.DATASETS.CLASSES or cfg.DATASETS.TRAIN[0]))
    channel_order = cfg.INPUT.FORMAT

    def draw(sample: dict) -> Drawing:
        height, width = sample["image"].shape[1:]
        targets = Counter(classes.names[i] for i in sample["instances"].gt_classes.tolist())
        listed = ", ".join(f"{n} x {name}" for name, n in targets.items()) or "no target"
        about = f"{height}x{width}, {sample['task']}: {listed}"
        return Drawing(draw_sample(sample, classes, channel_order), sample["task"], about)

    return draw

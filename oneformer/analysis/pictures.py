"""The worst images of an evaluation as pictures: photograph, result and label side by side."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from segcore.data import build_test_loader
from segcore.data.images import read_image
from segcore.data.label_space import label_tasks
from segcore.data.layers import read_layers
from segcore.predictions import Classes, PanopticResult, Prediction
from segcore.visualization import grid, render
from segcore.visualization.legend import title

from ..tasks import INSTANCE, PANOPTIC
from .errors import ErrorReport, predicted_segments, true_segments

_SIDE = 560  # longest side of each picture, pixels
_LINE = 18   # of the text, pixels


def write_worst(
    report: ErrorReport, model: Callable[[list[dict]], list[dict]], cfg, classes: Classes, name: str, output: str,
    count: int,
) -> list[str]:
    """Draw the `count` worst images of data set `name` into the folder `output`; returns the paths.

    Args:
        report: of `find_errors`.
        model: the one that the report is about.
        cfg: for the test loader.
        classes: of the data set.
    """
    os.makedirs(output, exist_ok=True)
    rank = {file: (number, score) for number, (score, file) in enumerate(report.images[:count])}
    task = next(t for t in (PANOPTIC, "semantic", INSTANCE) if t in label_tasks(name))
    paths = []
    for batch in build_test_loader(cfg, name):
        for x in batch:
            if x["file_name"] not in rank:
                continue
            number, score = rank[x["file_name"]]
            with torch.inference_mode():
                (found,) = model([{**x, "task": task}])
            stem = os.path.splitext(os.path.basename(x["file_name"]))[0]
            paths.append(os.path.join(output, f"{number:02d}_{stem}.png"))
            Image.fromarray(draw_error(x, found, score, classes)).save(paths[-1])
    return sorted(paths)


def draw_error(x: dict, output: dict, score: float, classes: Classes) -> np.ndarray:
    """One image's photograph, result and label; (h, w, 3) uint8 RGB."""
    image = read_image(x["file_name"])
    size = image.shape[:2]
    truth = true_segments(read_layers(x, size))
    parts = [("photograph", []), ("result", predicted_segments(output)), ("label", truth)]
    panels = []
    for heading, segments in parts:
        picture = render(image, _as_prediction(segments, size, classes), PANOPTIC, _SIDE)
        note = f"score {100 * score:.1f}" if heading == "photograph" else ""
        panels.append(np.vstack([title(heading, note, picture.shape[1], _LINE), picture]))
    return grid(panels, 3, gap=4, color=(255, 255, 255))


def _as_prediction(segments: list[tuple[int, np.ndarray]], size: tuple[int, int], classes: Classes) -> Prediction:
    """Segments as a map; where they overlap, the smaller one is seen."""
    ids = np.zeros(size, np.int32)
    order = sorted(range(len(segments)), key=lambda i: -np.count_nonzero(segments[i][1]))
    for number in order:
        ids[segments[number][1]] = number + 1
    class_of = {number: category for number, (category, _) in enumerate(segments, start=1)}
    return Prediction(size, classes, panoptic=PanopticResult.from_map(ids, class_of, classes))

"""What every format is made from: the masks of a prediction, each with its class, score and colour."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segcore.predictions import Prediction

TASKS = ("panoptic", "instance", "semantic")


@dataclass(frozen=True)
class Shape:
    """One segment, object or class of a picture.

    Attributes:
        mask: (H, W) bool, with at least one pixel.
        number: segment id (panoptic), rank from 1 (instance) or class index + 1 (semantic).
        class_index, name: of its class.
        category_id: the data set's number of the class.
        isthing: whether the class is countable.
        color: (R, G, B), 0..255, of the class.
        score: 0..1 for an object, else None.
    """

    mask: np.ndarray
    number: int
    class_index: int
    name: str
    category_id: int
    isthing: bool
    color: tuple[int, int, int]
    score: float | None = None

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 in pixels, the last two exclusive."""
        rows, columns = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

    @property
    def crop(self) -> np.ndarray:
        """The mask inside of its box, (h, w) bool."""
        x0, y0, x1, y1 = self.box
        return self.mask[y0:y1, x0:x1]


def tasks_of(prediction: Prediction) -> list[str]:
    """The tasks whose results a prediction holds."""
    return [task for task in TASKS if getattr(prediction, task) is not None]


def shapes_of(prediction: Prediction, task: str) -> list[Shape]:
    """The masks of one task: segments, objects (which may overlap, best first) or classes.

    Raises:
        ValueError: for an unknown task or one that the prediction lacks.
    """
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; choose one of {', '.join(TASKS)}")
    result = getattr(prediction, task)
    if result is None:
        raise ValueError(f"the prediction has no {task} result; it has {', '.join(tasks_of(prediction)) or 'none'}")
    if task == "panoptic":
        found = [(result.ids == s.id, s.id, s.class_index, None) for s in result.segments]
    elif task == "instance":
        rows = zip(result.masks, result.class_indices.tolist(), result.scores.tolist())
        found = [(mask, i, index, score) for i, (mask, index, score) in enumerate(rows, 1)]
    else:
        found = [(result.labels == index, index + 1, index, None) for index in result.shares()]
    return [_shape(prediction, *row) for row in found if row[0].any()]


def _shape(prediction: Prediction, mask: np.ndarray, number: int, index: int, score: float | None) -> Shape:
    classes = prediction.classes
    return Shape(
        mask=mask,
        number=number,
        class_index=index,
        name=classes.names[index],
        category_id=classes.category_ids[index],
        isthing=index in classes.things,
        color=classes.colors[index],
        score=score,
    )

"""A prediction as `supervision.Detections`, for its annotators, trackers, zones and metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from segcore.predictions import Prediction

from .shapes import shapes_of

if TYPE_CHECKING:
    import supervision


def to_supervision(prediction: Prediction, task: str = "instance") -> supervision.Detections:
    """One detection per object, segment or class.

    Args:
        prediction: must hold the task's result.
        task: "panoptic", "instance" or "semantic".

    Returns:
        Detections with xyxy, mask, class_id (class index), data["class_name"], data["number"] and, for
        instances, confidence.

    Raises:
        ImportError: without supervision (pip install supervision).
        ValueError: for an unknown task or one that the prediction lacks.
    """
    try:
        import supervision
    except ImportError as error:
        raise ImportError(
            "supervision is not installed; `pip install supervision`, or the extra: pip install .[formats]"
        ) from error
    shapes = shapes_of(prediction, task)
    if not shapes:
        return supervision.Detections.empty()
    scores = [shape.score for shape in shapes]
    return supervision.Detections(
        xyxy=np.array([shape.box for shape in shapes], np.float32),
        mask=np.stack([shape.mask for shape in shapes]),
        confidence=None if scores[0] is None else np.array(scores, np.float32),
        class_id=np.array([shape.class_index for shape in shapes]),
        data={
            "class_name": np.array([shape.name for shape in shapes]),
            "number": np.array([shape.number for shape in shapes]),
        },
    )

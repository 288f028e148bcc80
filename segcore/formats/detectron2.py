"""A prediction as the dict that a Detectron2 model returns, for Detectron2's evaluators and visualizer."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.structures import Boxes, Instances

from segcore.predictions import InstanceResult, PanopticResult, Prediction


def to_detectron2(prediction: Prediction) -> dict[str, Any]:
    """The results that the prediction holds, under Detectron2's keys.

    Returns:
        "panoptic_seg": ((H, W) int32 ids, [{"id", "category_id" (class index), "isthing", "area"}]);
        "instances": Instances with pred_masks, pred_boxes, scores, pred_classes (the number that instance
        predictions of the data set use); "sem_seg": (K, H, W) float32, 1 for the class of a pixel, else 0.
        All on the CPU.
    """
    output: dict[str, Any] = {}
    if prediction.panoptic is not None:
        output["panoptic_seg"] = _panoptic(prediction.panoptic)
    if prediction.instance is not None:
        output["instances"] = _instances(prediction, prediction.instance)
    if prediction.semantic is not None:
        labels = torch.from_numpy(prediction.semantic.labels).long()
        planes = torch.nn.functional.one_hot(labels, len(prediction.classes))
        output["sem_seg"] = planes.permute(2, 0, 1).float().contiguous()
    return output


def _panoptic(result: PanopticResult) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    segments = [
        {"id": s.id, "category_id": s.class_index, "isthing": s.isthing, "area": s.area} for s in result.segments
    ]
    return torch.from_numpy(result.ids.copy()), segments


def _instances(prediction: Prediction, result: InstanceResult) -> Instances:
    numbers = prediction.classes.instance_numbers
    number_of = {index: number for number, index in numbers.items()} if numbers else None
    classes = [number_of[i] if number_of else i for i in result.class_indices.tolist()]
    instances = Instances(prediction.size)
    instances.pred_masks = torch.from_numpy(result.masks.copy())
    instances.pred_boxes = Boxes(torch.from_numpy(result.boxes.copy()))
    instances.scores = torch.from_numpy(result.scores.copy())
    instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return instances

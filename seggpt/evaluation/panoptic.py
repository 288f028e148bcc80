"""Panoptic segmentation by two tuned prompts, classes and objects side by side (SegGPT sec. 4.6, Painter's reading)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import inference_context
from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from detectron2.structures import Instances
from detectron2.utils import comm
from PIL import Image
from torch import nn

from segcore.data.images import read_image
from segcore.evaluation import PROTOCOL_REGISTRY, PanopticEvaluator
from segcore.registry import register_once
from seggpt.data.colouring import fixed_colours
from seggpt.predictor import SegGPTPredictor

from .few_shot import class_names
from .place_decoding import Objects, read_places
from .semantic import nearest_class


@register_once(PROTOCOL_REGISTRY)
def panoptic_tuned(cfg, model: nn.Module, dataset_name: str, output_dir: str) -> dict[str, dict[str, float]]:
    """TEST.PROTOCOL "panoptic_tuned": {"panoptic_seg": PQ and its relatives}; TEST.PANOPTIC names the two prompts."""
    return evaluate_panoptic(model, dataset_name, output_dir=output_dir, **panoptic_arguments(cfg))


def panoptic_arguments(cfg) -> dict:
    """What TEST.PANOPTIC says, for `evaluate_panoptic`."""
    p = cfg.TEST.PANOPTIC
    if not p.SEMANTIC_PROMPT or not p.INSTANCE_PROMPT:
        raise ValueError(
            "TEST.PANOPTIC.SEMANTIC_PROMPT and INSTANCE_PROMPT name the files of two tuned prompts; "
            "tools/export_seggpt_prompts.py writes them after in-context tuning"
        )
    return {
        "prompts": (p.SEMANTIC_PROMPT, p.INSTANCE_PROMPT),
        "levels": cfg.MODEL.SEGGPT.TUNING.LEVELS,
        "score": p.SCORE,
        "overlap": p.OVERLAP,
        "stuff_area": p.STUFF_AREA,
        "save_predictions": cfg.TEST.SAVE_PREDICTIONS,
    }


def evaluate_panoptic(
    model: nn.Module,
    dataset_name: str,
    *,
    prompts: tuple[str, str],
    levels: int = 0,
    score: float = 0.55,
    overlap: float = 0.5,
    stuff_area: int = 8192,
    output_dir: str | None = None,
    save_predictions: bool = False,
) -> dict[str, dict[str, float]]:
    """Every picture painted twice, read and merged; each process takes its share.

    Args:
        prompts: files of the tuned prompts, by category and by instance.
        levels: of the palette that the first was tuned with, see `fixed_colours`.
        score, overlap, stuff_area: see `merge`.
    """
    metadata = MetadataCatalog.get(dataset_name)
    colours = fixed_colours(len(class_names(metadata)), levels)
    things = sorted(metadata.thing_dataset_id_to_contiguous_id.values())
    evaluator = PanopticEvaluator(dataset_name, output_dir, save_predictions=save_predictions)
    evaluator.reset()
    with inference_context(model):
        predictor = SegGPTPredictor(model=model)
        by_category, by_place = (predictor.load_prompts(path) for path in prompts)
        for record in DatasetCatalog.get(dataset_name)[comm.get_rank() :: comm.get_world_size()]:
            image = read_image(record["file_name"], "RGB")
            objects = read_places(predictor.paint(image, by_place), predictor.model.device)
            found = merge(
                predictor.paint(image, by_category), objects, colours, things, image.shape[:2],
                score=score, overlap=overlap, stuff_area=stuff_area,
            )  # fmt: skip
            evaluator.process([record], [{"panoptic_seg": found}])
    return evaluator.evaluate()


def merge(
    painting: np.ndarray,
    objects: Objects,
    colours: np.ndarray,
    things: Sequence[int],
    size: tuple[int, int],
    *,
    score: float = 0.55,
    overlap: float = 0.5,
    stuff_area: int = 8192,
) -> tuple[torch.Tensor, list[dict]]:
    """A painting by category and objects of unknown class as one panoptic segmentation.

    Args:
        painting: (h, w, 3) uint8 RGB. colours: (classes, 3) uint8, of the classes.
        objects: of the same picture, at (h, w).
        things: class indices that objects can have.
        size: (H, W) of the answer.
        score: objects below are left out. overlap: nor one of which better objects cover this share.
        stuff_area: smaller areas of a stuff class (pixels of the answer) are void.

    Returns:
        (H, W) int32 ids, 0 void, and segments [{"id", "category_id" (class index), "isthing"}].
    """
    classes = object_classes(painting, objects.masks, colours[list(things)])
    instances = Instances(size)
    instances.scores = torch.from_numpy(np.asarray(objects.scores, np.float32))
    instances.pred_classes = torch.from_numpy(np.array(things, np.int64)[classes])
    masks = [_nearest(mask.astype(np.uint8), size) > 0 for mask in objects.masks]
    instances.pred_masks = torch.from_numpy(np.stack(masks) if masks else np.zeros((0, *size), bool))
    enlarged = np.asarray(Image.fromarray(painting).resize(size[::-1], Image.Resampling.BILINEAR))
    semantic = nearest_class(enlarged, colours)
    # Detectron2's merging takes 0 for "some thing", so stuff is numbered from 1 there.
    stuff = np.where(np.isin(semantic, things), 0, semantic + 1)
    ids, segments = combine_semantic_and_instance_outputs(
        instances, torch.from_numpy(stuff), overlap, stuff_area, score
    )
    return ids, [
        {
            "id": s["id"],
            "category_id": int(s["category_id"]) - (0 if s["isthing"] else 1),
            "isthing": s["isthing"],
        }
        for s in segments
    ]


def object_classes(painting: np.ndarray, masks: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """(M,) which of (classes, 3) colours each mask's pixels are nearest to, all pixels together."""
    values = painting.astype(np.float32)
    distance = np.stack([np.abs(values - colour).sum(-1) for colour in colours.astype(np.float32)])
    weight = 1 - distance / max(float(distance.max()), 1.0)
    sums = weight.reshape(len(colours), -1) @ masks.reshape(len(masks), -1).T.astype(np.float32)
    return sums.argmax(0)


def _nearest(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(values).resize(size[::-1], Image.Resampling.NEAREST))

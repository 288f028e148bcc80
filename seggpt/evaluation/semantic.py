"""Semantic segmentation of a whole class list: by a tuned prompt, and by examples (SegGPT sec. 4.4 and 4.6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import inference_context
from detectron2.utils import comm
from torch import Tensor, nn

from segcore.data.images import read_image
from segcore.evaluation import PROTOCOL_REGISTRY, SemanticEvaluator
from segcore.registry import register_once
from seggpt.data.colouring import fixed_colours
from seggpt.modeling.tuning import SegGPTTuner
from seggpt.predictor import SegGPTPredictor
from seggpt.prompts import Prompts
from seggpt.tuning import tuned_prompts

from .episodes import draw_examples, members_by_category
from .few_shot import RecordReader, class_names


def nearest_class(painting: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """(H, W, 3) RGB -> (H, W) int64: the class of the nearest colour, by the sum over the channels (Painter).

    There is no background: every pixel gets a class.
    """
    best = np.full(painting.shape[:2], np.inf, np.float32)
    found = np.zeros(painting.shape[:2], np.int64)
    values = painting.astype(np.float32)
    for number, colour in enumerate(colours.astype(np.float32)):
        distance = np.abs(values - colour).sum(-1)
        closer = distance < best
        best[closer], found[closer] = distance[closer], number
    return found


def strongest_class(predictor: SegGPTPredictor, image: np.ndarray, prompts: dict[int, Prompts]) -> np.ndarray:
    """(H, W) int64: the class whose examples paint a pixel the brightest. (The paper does not say how it fuses.)"""
    scores = np.stack([predictor(image, one).scores[1] for one in prompts.values()])
    return np.array(list(prompts))[scores.argmax(0)]


@register_once(PROTOCOL_REGISTRY)
def semantic_tuned(cfg, model: SegGPTTuner, dataset_name: str, output_dir: str) -> dict[str, dict[str, float]]:
    """TEST.PROTOCOL "semantic_tuned": the model is a tuner; {"sem_seg": mIoU and its relatives}."""
    return evaluate_tuned(model, dataset_name, **tuned_arguments(cfg))


def tuned_arguments(cfg) -> dict:
    """What MODEL.SEGGPT.TUNING says, for `evaluate_tuned`."""
    return {"levels": cfg.MODEL.SEGGPT.TUNING.LEVELS}


def evaluate_tuned(model: SegGPTTuner, dataset_name: str, *, levels: int = 0) -> dict[str, dict[str, float]]:
    """Every pixel gets the class whose colour is nearest to its painting; `levels` as for `fixed_colours`."""
    colours = fixed_colours(len(class_names(MetadataCatalog.get(dataset_name))), levels)
    with inference_context(model):
        predictor = SegGPTPredictor(model=model.model)
        return evaluate_prompts(predictor, dataset_name, tuned_prompts(model, colours))


def evaluate_prompts(
    predictor: SegGPTPredictor, dataset_name: str, prompts: Prompts
) -> dict[str, dict[str, float]]:
    """{"sem_seg": mIoU ...} of prompts that paint all classes, class i in the i-th of their colours."""

    def segment(image: np.ndarray) -> np.ndarray:
        return nearest_class(predictor(image, prompts).painting, prompts.colours)

    return _evaluate(dataset_name, segment)


@register_once(PROTOCOL_REGISTRY)
def semantic_by_examples(cfg, model: nn.Module, dataset_name: str, output_dir: str) -> dict[str, dict[str, float]]:
    """TEST.PROTOCOL "semantic_by_examples": TEST.EXAMPLES says where from and how many per class."""
    return evaluate_by_examples(model, dataset_name, **example_arguments(cfg))


def example_arguments(cfg) -> dict:
    """What TEST.EXAMPLES says, for `evaluate_by_examples`."""
    e = cfg.TEST.EXAMPLES
    return {"source": e.DATASET or cfg.DATASETS.TRAIN[0], "shots": e.SHOTS, "seed": e.SEED}


def evaluate_by_examples(
    model: nn.Module, dataset_name: str, *, source: str, shots: int, seed: int
) -> dict[str, dict[str, float]]:
    """Every class by `shots` pictures of `source` that show it, feature-ensembled; the strongest class wins.

    Args:
        seed: of the pictures drawn; the paper reports the best of four.

    Raises:
        ValueError: if the two data sets have other classes, or a class has no picture.
    """
    metadata = MetadataCatalog.get(source)
    names = class_names(metadata)
    if names != class_names(MetadataCatalog.get(dataset_name)):
        raise ValueError(f"the classes of {source}, which gives the examples, are not those of {dataset_name}")
    read = RecordReader(DatasetCatalog.get(source), metadata)
    members = members_by_category([read.categories(n, False) for n in range(len(read.records))])
    missing = [name for c, name in enumerate(names) if c not in members]
    if missing:
        raise ValueError(f"{source} has no picture of {', '.join(missing[:5])}; every class needs an example")
    with inference_context(model):
        predictor = SegGPTPredictor(model=model)
        prompts = {}
        for category, numbers in draw_examples(members, shots, seed).items():
            examples = [read(number, category) for number in numbers]
            prompts[category] = predictor.encode_prompts(
                [e.image for e in examples], [e.mask for e in examples], type="semantic"
            )
        return _evaluate(dataset_name, lambda image: strongest_class(predictor, image, prompts))


def _evaluate(dataset_name: str, segment: Callable[[np.ndarray], np.ndarray]) -> dict[str, dict[str, float]]:
    """Detectron2's numbers of a function from pictures to class maps; each process takes its share."""
    evaluator = SemanticEvaluator(dataset_name)
    evaluator.reset()
    records: Sequence[dict] = DatasetCatalog.get(dataset_name)[comm.get_rank() :: comm.get_world_size()]
    for record in records:
        labels: Tensor = torch.from_numpy(segment(read_image(record["file_name"], "RGB")))
        evaluator.process([record], [{"sem_seg": labels}])
    return evaluator.evaluate()

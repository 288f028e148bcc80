"""Few-shot segmentation by examples (SegGPT sec. 4.2; the protocol is HSNet's, arXiv:2104.01538)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import inference_context
from detectron2.utils import comm
from torch import nn

from segcore.data.images import read_image
from segcore.data.layers import read_instances
from segcore.evaluation import PROTOCOL_REGISTRY
from segcore.registry import register_once
from seggpt.data.annotations import VOID, categories_of, read_label_map
from seggpt.pictures import fit_labels
from seggpt.predictor import SegGPTPredictor

from .counts import OverlapCounter
from .episodes import Episode, ask_each_once, draw_episodes, members_by_category


class Example(NamedTuple):
    """A picture (H, W, 3) uint8, the asked class's mask (H, W) bool, and where labels count (H, W) bool."""

    image: np.ndarray
    mask: np.ndarray
    valid: np.ndarray


Read = Callable[[int, int], Example]  # (record number, class) -> example


def evaluate_episodes(
    predictor: SegGPTPredictor,
    episodes: Iterable[Episode],
    read: Read,
    shots: int,
    ensemble: str = "feature",
    colour_of: Callable[[Episode], Sequence[int]] = lambda episode: (255, 255, 255),
) -> OverlapCounter:
    """Answer episodes with their first `shots` examples, of type "semantic".

    Args:
        colour_of: the RGB 0..255 in which an episode's examples are painted, on black.
    """
    counter = OverlapCounter()
    for episode in episodes:
        query = read(episode.query, episode.category)
        examples = [read(number, episode.category) for number in episode.supports[:shots]]
        colour = np.array(colour_of(episode), np.uint8)
        paintings = [visible(e.mask, predictor.size)[..., None] * colour for e in examples]
        prompts = predictor.encode_prompts(
            [e.image for e in examples], paintings, type="semantic", ensemble=ensemble
        )
        predicted = predictor(query.image, prompts).label_map > 0
        counter.add(episode.category, predicted, query.mask, query.valid)
    return counter


def visible(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask (H, W) bool that a canvas of `size` does not lose: one of no pixel there is grown by a pixel's worth.

    Published lists hold objects of a few pixels; an example has to show at least where its object is.
    """
    if not mask.any() or fit_labels(mask, size, "squash").any():
        return mask
    kernel = np.ones([2 * math.ceil(m / s) + 1 for m, s in zip(mask.shape, size)], np.uint8)
    return cv2.dilate(mask.astype(np.uint8), kernel) > 0


def trivial_answers(episodes: Iterable[Episode], read: Read) -> dict[str, OverlapCounter]:
    """What needs no model: everything is foreground, and the (first) example's mask is the answer."""
    counters = {"all foreground": OverlapCounter(), "the example's mask": OverlapCounter()}
    for episode in episodes:
        query = read(episode.query, episode.category)
        example = read(episode.supports[0], episode.category).mask
        rows, cols = (
            (np.arange(n) * size / n).astype(int) for n, size in zip(query.mask.shape, example.shape)
        )
        answers = np.ones_like(query.mask), example[rows[:, None], cols[None]]
        for counter, answer in zip(counters.values(), answers):
            counter.add(episode.category, answer, query.mask, query.valid)
    return counters


class RecordReader:
    """Examples of a registered data set, by category.

    Args:
        records: its Detectron2 records. metadata: of which the ignore_label of its label PNGs is taken.
    """

    def __init__(self, records: Sequence[dict], metadata):
        ignore_label = metadata.get("ignore_label")
        self.records, self.ignore_label = records, 255 if ignore_label is None else ignore_label

    def __call__(self, number: int, category: int) -> Example:
        record = self.records[number]
        image = read_image(record["file_name"], "RGB")
        if "annotations" in record or "mask_files" in record:  # objects may cover each other: all of the class count
            masks = [i.mask for i in read_instances(record, image.shape[:2]) if i.category == category]
            mask = np.any(masks, 0) if masks else np.zeros(image.shape[:2], bool)
            return Example(image, mask, np.ones_like(mask))
        labels = read_label_map(record, image.shape[:2], by_instance=False, ignore_label=self.ignore_label)
        return Example(image, labels == category + 1, labels != VOID)

    def categories(self, number: int, things_only: bool) -> set[int]:
        """The classes that a record shows; read from its label picture where the record does not tell."""
        record = self.records[number]
        known = categories_of(record, things_only)
        if known is None:
            labels = read_label_map(record, _size(record), by_instance=False, ignore_label=self.ignore_label)
            known = {int(label) - 1 for label in np.unique(labels) if label > 0}
        return known


@register_once(PROTOCOL_REGISTRY)
def few_shot(cfg, model: nn.Module, dataset_name: str, output_dir: str) -> dict[str, dict[str, float]]:
    """TEST.PROTOCOL "few_shot": episodes drawn from a registered data set, TEST.FEW_SHOT says how.

    Returns:
        {"1-shot": {"mIoU", "FB-IoU", "mIoU+-", "episodes"}, ..., "no model": mIoU of the trivial answers}; {} on
        other processes than the first. A set whose metadata has "folds" gives the means over them, and "fold 0",
        ... in each dict: their mIoU.

    Raises:
        ValueError: an unknown class name, or no class with enough pictures.
    """
    arguments = few_shot_arguments(cfg)
    folds = MetadataCatalog.get(dataset_name).get("folds")
    if not folds:
        return evaluate_few_shot(model, dataset_name, **arguments)
    return mean_of_folds([evaluate_few_shot(model, name, **arguments) for name in folds])


def mean_of_folds(results: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Results of folds -> means, with the sum of the episodes and each fold's mIoU."""
    merged: dict[str, dict[str, float]] = {}
    for name in results[0]:
        parts = [result[name] for result in results]
        merged[name] = {key: float(np.mean([part[key] for part in parts])) for key in parts[0]}
        if "episodes" in parts[0]:
            merged[name]["episodes"] = sum(part["episodes"] for part in parts)
            # Errors of independent lists: squares add up.
            merged[name]["mIoU+-"] = float(np.sqrt(np.sum([part["mIoU+-"] ** 2 for part in parts]))) / len(parts)
            merged[name] |= {f"fold {k}": part["mIoU"] for k, part in enumerate(parts)}
    return merged


def few_shot_arguments(cfg) -> dict:
    """What TEST.FEW_SHOT says, for `evaluate_few_shot`."""
    f = cfg.TEST.FEW_SHOT
    return {
        "shots": list(f.SHOTS),
        "count": f.EPISODES,
        "seed": f.SEED,
        "ensemble": f.ENSEMBLE,
        "classes": list(f.CLASSES),
        "things_only": f.THINGS_ONLY,
    }


def evaluate_few_shot(
    model: nn.Module,
    dataset_name: str,
    *,
    shots: Sequence[int],
    count: int,
    seed: int = 0,
    ensemble: str = "feature",
    classes: Sequence[str] = (),
    things_only: bool = False,
) -> dict[str, dict[str, float]]:
    """See `few_shot` and the keys TEST.FEW_SHOT; all shots answer the same questions."""
    metadata = MetadataCatalog.get(dataset_name)
    read = RecordReader(DatasetCatalog.get(dataset_name), metadata)
    members = members_by_category([read.categories(n, things_only) for n in range(len(read.records))])
    classes = classes or metadata.get("asked_classes") or ()
    if classes:
        wanted = _class_indices(metadata, classes)
        members = {c: numbers for c, numbers in members.items() if c in wanted}
    draw = partial(draw_episodes, count=count) if count else ask_each_once
    episodes = draw(members, shots=max(shots), seed=seed)
    mine = episodes[comm.get_rank() :: comm.get_world_size()]
    with inference_context(model):
        predictor = SegGPTPredictor(model=model)
        counters = {f"{k}-shot": evaluate_episodes(predictor, mine, read, k, ensemble) for k in shots}
    trivial = trivial_answers(mine, read)
    gathered = [_gather(counter) for counter in (*counters.values(), *trivial.values())]
    if not comm.is_main_process():
        return {}
    results = {name: counter.results() for name, counter in zip(counters, gathered)}
    results["no model"] = {
        name: counter.results()["mIoU"] for name, counter in zip(trivial, gathered[len(counters) :])
    }
    return results


def _gather(counter: OverlapCounter) -> OverlapCounter:
    total = OverlapCounter()
    for one in comm.gather(counter):
        total.merge(one)
    return total


def class_names(metadata) -> list[str]:
    """All classes of a data set, by class index."""
    return list(metadata.get("stuff_classes") or metadata.get("thing_classes") or ())


def _class_indices(metadata, names: Sequence[str]) -> set[int]:
    known = class_names(metadata)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"TEST.FEW_SHOT.CLASSES names {unknown[0]!r}, no class of {metadata.name}; it has {known}")
    return {known.index(name) for name in names}


def _size(record: dict) -> tuple[int, int]:
    if "height" in record and "width" in record:
        return record["height"], record["width"]
    return read_image(record["file_name"]).shape[:2]

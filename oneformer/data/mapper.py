"""The one mapper: an annotation of any kind becomes one task's image, targets and texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.structures import Instances

from segcore.data import MAPPER_REGISTRY
from segcore.data.images import contiguous, read_image
from segcore.data.layers import read_layers
from segcore.data.segments import pack, unpack

from ..tasks import ALL, INSTANCE, PANOPTIC, SEMANTIC
from .augmentation import ResizeShortestEdge, build_recipe
from .targets import join_targets, make_targets
from .text import text_list, unique_texts
from .tokenizer import Tokenizer

# The order in which the probabilities are summed up when a task is drawn: the official one.
_DRAW_ORDER = (SEMANTIC, INSTANCE, PANOPTIC)

# What a record says about its label files; a training input has the targets instead.
LABEL_KEYS = (
    "pan_seg_file_name",
    "sem_seg_file_name",
    "label_classes",
    "ignored_labels",
    "annotations",
    "mask_files",
    "mask_values",
    "tasks",
)


class OneFormerMapper:
    """Dataset dict -> model input.

    Training (H, W: the augmented size; N: NUM_OBJECT_QUERIES - TEXT_ENCODER.N_CTX):
        image (3, H, W) uint8; instances with gt_classes (n,) int64 and gt_masks
        (n, H, W), `segcore.masks.LayeredMasks` in place of a bool tensor: a byte per pixel
        leaves a loader's worker however many masks there are; sem_seg (H, W) class indices,
        uint8 where they fit, else int32; orig_shape (H, W); task, one of
        "semantic", "instance", "panoptic"; text, N strings; text_tokens (U, 77)
        int64, the ids of the distinct strings in order of first appearance;
        text_index (N,) int64, the row of each string; thing_ids; and file_name,
        height, width, image_id, segments_info as they were.
        An image without segments gives n = 0.

    Testing: image, resized; height and width of the file; task "all"; and what
        the evaluators need of the annotation.
    """

    @configurable
    def __init__(
        self,
        *,
        is_train: bool,
        augmentations: Sequence[T.Augmentation],
        image_format: str = "RGB",
        class_names: Sequence[str] = (),
        thing_ids: Sequence[int] = (),
        ignore_label: int = 255,
        task_prob: Mapping[str, float] | None = None,
        num_texts: int = 1,
        context_length: int = 77,
    ) -> None:
        """All but the first three are for training only.

        Args:
            is_train: whether to make targets.
            augmentations: applied in turn to the image and its index map.
            image_format: "RGB" or "BGR".
            class_names: by class index.
            thing_ids: class indices of the things.
            ignore_label: value of unlabelled pixels in `sem_seg`.
            task_prob: task -> probability; must sum to 1.
            num_texts: N above.
            context_length: tokens per text.

        Raises:
            ValueError: probabilities that do not sum to 1, or no room for a text.
        """
        self.is_train = is_train
        self.augmentations = T.AugmentationList(list(augmentations))
        self.image_format = image_format
        if not is_train:
            return
        if num_texts < 1:
            raise ValueError(
                f"{num_texts} texts per image: MODEL.ONE_FORMER.NUM_OBJECT_QUERIES must be larger than "
                f"MODEL.TEXT_ENCODER.N_CTX"
            )
        self.class_names = list(class_names)
        self.thing_ids = list(thing_ids)
        self.ignore_label = ignore_label
        self.task_prob = _checked_probabilities(task_prob or {})
        self._draws: dict[tuple[str, ...], tuple[list[str], np.ndarray]] = {}
        self.num_texts = num_texts
        self.context_length = context_length
        self.tokenizer = Tokenizer()
        self._token_rows: dict[str, torch.Tensor] = {}

    @classmethod
    def from_config(cls, cfg, is_train: bool = True) -> dict:
        if not is_train:
            resize = ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
            return {"is_train": False, "augmentations": [resize], "image_format": cfg.INPUT.FORMAT}
        # The classes of the run; without a name of their own, those of the training sets, which are alike.
        metadata = _common_metadata([cfg.DATASETS.CLASSES] if cfg.DATASETS.CLASSES else cfg.DATASETS.TRAIN)
        num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        if len(metadata.stuff_classes) != num_classes:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {num_classes}, but {cfg.DATASETS.TRAIN[0]} has "
                f"{len(metadata.stuff_classes)} classes"
            )
        return {
            "is_train": True,
            "augmentations": build_recipe(cfg),
            "image_format": cfg.INPUT.FORMAT,
            "class_names": metadata.stuff_classes,
            "thing_ids": sorted(metadata.thing_dataset_id_to_contiguous_id.values()),
            "ignore_label": metadata.ignore_label,
            "task_prob": {task.lower(): p for task, p in cfg.INPUT.TASK_PROB.items()},
            "num_texts": cfg.MODEL.ONE_FORMER.NUM_OBJECT_QUERIES - cfg.MODEL.TEXT_ENCODER.N_CTX,
            "context_length": cfg.INPUT.MAX_SEQ_LEN,
        }

    def __call__(self, dataset_dict: dict) -> dict:
        """See the class.

        Raises:
            FileNotFoundError, ValueError: a file that is missing or damaged, an image
                and an annotation that do not fit each other.
        """
        record = dict(dataset_dict)  # the loader's own; entries are replaced, never changed
        image = read_image(record["file_name"], self.image_format)
        _check_size(record, image)
        return self._train_input(record, image) if self.is_train else self._test_input(record, image)

    def _test_input(self, record: dict, image: np.ndarray) -> dict:
        resized = T.AugInput(image)
        self.augmentations(resized)
        return {**record, "image": _to_tensor(resized.image), "task": ALL}

    def _train_input(self, record: dict, image: np.ndarray) -> dict:
        first, *others = read_layers(record, image.shape[:2])
        augmented = T.AugInput(image, sem_seg=pack(first.indices))
        transforms = self.augmentations(augmented)
        task = self._draw_task(tuple(record.get("tasks", _DRAW_ORDER)))
        layers = [(unpack(augmented.sem_seg), first.segments)]
        for layer in others:
            layers.append((unpack(transforms.apply_segmentation(pack(layer.indices))), layer.segments))
        targets = join_targets(
            [make_targets(*layer, task, set(self.thing_ids), self.ignore_label) for layer in layers],
            self.ignore_label,
        )
        instances = Instances(targets.sem_seg.shape)
        instances.gt_classes = torch.from_numpy(targets.classes)
        instances.gt_masks = targets.masks
        for key in LABEL_KEYS:
            record.pop(key, None)
        return {
            **record,
            "image": _to_tensor(augmented.image),
            "orig_shape": tuple(targets.sem_seg.shape),
            "instances": instances,
            "sem_seg": torch.from_numpy(targets.sem_seg),
            "thing_ids": self.thing_ids,
            "task": task,
            **self._texts(targets.classes.tolist(), task),
        }

    def _draw_task(self, allowed: tuple[str, ...] = _DRAW_ORDER) -> str:
        """One of the tasks that an image's labels serve; their probabilities are scaled up to sum to 1."""
        if allowed not in self._draws:
            self._draws[allowed] = _task_thresholds(self.task_prob, allowed)
        tasks, thresholds = self._draws[allowed]
        draw = np.random.uniform(0, 1)
        return next((t for t, threshold in zip(tasks, thresholds) if draw < threshold), tasks[-1])

    def _texts(self, classes: list[int], task: str) -> dict:
        texts = text_list(classes, self.class_names, task, self.num_texts)
        unique, index = unique_texts(texts)
        return {
            "text": texts,
            "text_tokens": torch.stack([self._tokens(text) for text in unique]),
            "text_index": torch.tensor(index),
        }

    def _tokens(self, text: str) -> torch.Tensor:
        if text not in self._token_rows:
            self._token_rows[text] = self.tokenizer(text, self.context_length)[0]
        return self._token_rows[text]


def oneformer_panoptic(cfg, is_train: bool = True) -> OneFormerMapper:
    """The entry of MAPPER_REGISTRY."""
    return OneFormerMapper(cfg, is_train)


# Importing the package anew in one process (notebooks do) must not fail on the name.
if "oneformer_panoptic" not in MAPPER_REGISTRY:
    MAPPER_REGISTRY.register(oneformer_panoptic)


def _checked_probabilities(task_prob: Mapping[str, float]) -> dict[str, float]:
    unknown = set(task_prob) - set(_DRAW_ORDER)
    total = sum(task_prob.values())
    if unknown or abs(total - 1) > 1e-6 or any(p < 0 for p in task_prob.values()):
        raise ValueError(
            f"INPUT.TASK_PROB must give {', '.join(_DRAW_ORDER)} probabilities that sum to 1; got "
            f"{dict(task_prob)} with sum {total:g}"
        )
    return dict(task_prob)


def _task_thresholds(
    task_prob: Mapping[str, float], allowed: Sequence[str]
) -> tuple[list[str], np.ndarray]:
    """The tasks that can be drawn and the upper ends of their shares of [0, 1)."""
    tasks = [task for task in _DRAW_ORDER if task in allowed and task_prob.get(task, 0) > 0]
    if not tasks:
        raise ValueError(
            f"labels that serve the tasks {', '.join(allowed)} alone have no probability in INPUT.TASK_PROB "
            f"({dict(task_prob)}); raise it, or take the data set out of DATASETS.TRAIN"
        )
    shares = np.cumsum([task_prob[task] for task in tasks])
    whole = len(tasks) == sum(p > 0 for p in task_prob.values())
    return tasks, shares if whole else shares / shares[-1]


def _common_metadata(names: Sequence[str]):
    """The metadata of the training sets, which must agree on the classes."""
    if not names:
        raise ValueError("DATASETS.TRAIN is empty; name at least one registered data set")
    first, *others = (MetadataCatalog.get(name) for name in names)
    if "stuff_classes" not in first.as_dict():
        raise ValueError(
            f"data set {names[0]!r} has no metadata; register it with segcore.data.register_panoptic"
        )
    for other in others:
        if other.as_dict().get("stuff_classes") != first.stuff_classes:
            raise ValueError(
                f"the classes of {other.name!r} differ from those of {first.name!r}; train on one"
            )
    return first


def _check_size(record: dict, image: np.ndarray) -> None:
    height, width = image.shape[:2]
    expected = record.setdefault("height", height), record.setdefault("width", width)
    if expected != (height, width):
        raise ValueError(
            f"{record['file_name']} is {height}x{width} (height x width), its annotation says "
            f"{expected[0]}x{expected[1]}"
        )


def _to_tensor(image: np.ndarray) -> torch.Tensor:
    """(H, W, 3) -> (3, H, W)."""
    planes = np.empty((image.shape[2], *image.shape[:2]), image.dtype)
    cv2.split(contiguous(image), list(planes))   # ten times as fast as copying the transposed array
    return torch.from_numpy(planes)

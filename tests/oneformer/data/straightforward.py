"""The recipes of the released mappers step by step: everything at full size, one mask after the other.

What the package's mapper is tested against and measured against. Detectron2's own transforms, in the released order,
on the semantic PNG too where the crop is drawn with it; a comparison of the panoptic map per segment; boxes of the
masks (but not for the semantic task) from grids of coordinates; every text tokenised; labels as int64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform
from detectron2.structures import BitMasks, Instances

from oneformer.data.text import text_list
from oneformer.data.tokenizer import Tokenizer

IMAGE_PAD = 128


def resize_crop(min_sizes: Sequence[int], max_size: int, crop: tuple[int, int]) -> list:
    """ADE20K's, Cityscapes' and Mapillary's augmentations; the mapper pads."""
    return [
        T.ResizeShortestEdge(min_sizes, max_size, "choice"),
        T.RandomCrop_CategoryAreaConstraint("absolute", crop, single_category_max_area=1.0, ignored_category=255),
        ColorAugSSDTransform(img_format="RGB"),
        T.RandomFlip(),
    ]


def lsj(image_size: int, min_scale: float, max_scale: float) -> list:
    """COCO's augmentations; the panoptic PNG is padded with white, an id that no segment has."""
    return [
        T.RandomFlip(),
        T.ResizeScale(min_scale, max_scale, image_size, image_size),
        T.FixedSizeCrop((image_size, image_size)),
    ]


class StraightforwardMapper:
    """Training inputs; gt_masks is an (n, H, W) bool tensor, `tokens` has a row for every text.

    Args:
        augmentations: of one of the functions above.
        pad_to: right and bottom are padded to a multiple of it; None: no padding.
        with_semantic: read and transform the record's sem_seg_file_name.
        task_prob: (semantic, instance) probabilities.
    """

    def __init__(
        self,
        augmentations: list,
        *,
        class_names: Sequence[str],
        thing_ids: Sequence[int],
        num_texts: int,
        task_prob: tuple[float, float],
        pad_to: int | None = None,
        with_semantic: bool = False,
        ignore_label: int = 255,
    ) -> None:
        self.augmentations, self.pad_to, self.with_semantic = augmentations, pad_to, with_semantic
        self.class_names, self.thing_ids, self.num_texts = class_names, set(thing_ids), num_texts
        self.task_prob, self.ignore_label = task_prob, ignore_label
        self.tokenizer = Tokenizer()

    def __call__(self, record: dict) -> dict:
        record = dict(record)
        image = detection_utils.read_image(record["file_name"], "RGB")
        semantic_file = record.pop("sem_seg_file_name", None)
        semantic = detection_utils.read_image(semantic_file).astype("double") if self.with_semantic else None
        colors = detection_utils.read_image(record.pop("pan_seg_file_name"), "RGB")
        augmented = T.AugInput(image, sem_seg=semantic)
        augmented, transforms = T.apply_transform_gens(self.augmentations, augmented)
        colors = transforms.apply_segmentation(colors).astype(np.int64)
        ids = torch.from_numpy(colors[..., 0] + 256 * colors[..., 1] + 256 * 256 * colors[..., 2])
        image = torch.from_numpy(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
        semantic = None if semantic is None else torch.from_numpy(augmented.sem_seg.astype("long"))
        if self.pad_to:
            pad = (0, -image.shape[2] % self.pad_to, 0, -image.shape[1] % self.pad_to)
            image, ids = F.pad(image, pad, value=IMAGE_PAD).contiguous(), F.pad(ids, pad, value=0)
            semantic = None if semantic is None else F.pad(semantic, pad, value=self.ignore_label)
        draw = np.random.uniform(0, 1)
        semantic_end, instance_end = self.task_prob[0], sum(self.task_prob)
        task = "semantic" if draw < semantic_end else "instance" if draw < instance_end else "panoptic"
        instances, labels = self.targets(ids.numpy(), record["segments_info"], task)
        texts = text_list(instances.gt_classes.tolist(), self.class_names, task, self.num_texts)
        outputs = {"image": image, "instances": instances, "sem_seg": labels, "task": task, "text": texts}
        return {**record, **outputs, "tokens": self.tokenizer(texts)}

    def targets(self, ids: np.ndarray, segments: list[dict], task: str) -> tuple[Instances, torch.Tensor]:
        """Classes and masks of the task's objects, and the class of every pixel."""
        labels = self.ignore_label * np.ones_like(ids)
        classes, masks = [], []
        for segment in segments:
            category = segment["category_id"]
            if segment["iscrowd"] or (task == "instance" and category not in self.thing_ids):
                continue
            mask = ids == segment["id"]
            if not mask.any():
                continue
            labels[mask] = category
            if task == "semantic" and category in classes:
                masks[classes.index(category)] |= mask
            else:
                classes.append(category)
                masks.append(mask)
        instances = Instances(ids.shape)
        instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
        if not masks:
            instances.gt_masks = torch.zeros((0, *ids.shape), dtype=torch.bool)
            return instances, torch.from_numpy(labels)
        instances.gt_masks = BitMasks(torch.stack([torch.from_numpy(mask.copy()) for mask in masks])).tensor
        if task == "semantic":
            instances.gt_bboxes = torch.stack([torch.tensor([0.0, 0.0, 1.0, 1.0])] * len(masks))
        else:
            instances.gt_bboxes = boxes_of(instances.gt_masks)
            for row, category in enumerate(classes):
                if category not in self.thing_ids:
                    instances.gt_bboxes[row] = torch.tensor([0.0, 0.0, 1.0, 1.0])
        return instances, torch.from_numpy(labels)


def boxes_of(masks: torch.Tensor) -> torch.Tensor:
    """(M, 4) x0, y0, x1, y1 of (M, H, W) masks, from grids of coordinates."""
    height, width = masks.shape[1:]
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    across, down = masks * x, masks * y
    return torch.stack(
        [
            across.masked_fill(~masks, 1e8).flatten(1).amin(1),
            down.masked_fill(~masks, 1e8).flatten(1).amin(1),
            across.flatten(1).amax(1),
            down.flatten(1).amax(1),
        ],
        1,
    )

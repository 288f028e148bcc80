"""Instance ground truth of a data set whose labels are mask pictures, encoded where the image is processed."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pycocotools.mask as mask_api
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from segcore.data.layers import read_instances

from .masks import encode_masks


class MaskTruth:
    """What `InstanceEvaluator` asks of a ground truth, from the records of a registered data set.

    Args:
        dataset_name: its records have mask_files (segcore.data.register_instances).
    """

    def __init__(self, dataset_name: str):
        metadata = MetadataCatalog.get(dataset_name)
        self.dataset_name = dataset_name
        self.source = metadata.mask_root
        self._names = metadata.stuff_classes
        self._category_of = {i: id_ for id_, i in metadata.thing_dataset_id_to_contiguous_id.items()}

    @cached_property
    def _records(self) -> dict[str, dict]:
        return {str(record["image_id"]): record for record in DatasetCatalog.get(self.dataset_name)}

    @property
    def image_ids(self) -> list[str]:
        return list(self._records)

    def size(self, image_id: str) -> tuple[int, int]:
        if image_id not in self._records:
            raise ValueError(f"image_id {image_id!r} is not in {self.dataset_name} ({len(self._records)} images)")
        record = self._records[image_id]
        return record["height"], record["width"]

    def original_id(self, image_id: str) -> str:
        return self._records[image_id]["image_id"]

    @property
    def categories(self) -> list[dict]:
        return [{"id": self._category_of[i], "name": name} for i, name in enumerate(self._names)]

    def annotations(self, image_id: str) -> list[dict]:
        """The COCO annotations of one image."""
        annotations = []
        for instance in read_instances(self._records[image_id], self.size(image_id)):
            rle = encode_masks(torch.from_numpy(np.ascontiguousarray(instance.mask))[None])[0]
            annotations.append(
                {
                    "category_id": self._category_of[instance.category],
                    "iscrowd": instance.iscrowd,
                    "segmentation": rle,
                    "area": float(mask_api.area(rle)),
                }
            )
        return annotations

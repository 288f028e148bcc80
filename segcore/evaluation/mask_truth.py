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

    @cached_property
    def numbers(self) -> dict[str, int]:
        return {key: number for number, key in enumerate(self._records, start=1)}

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

    def record(self, image_id: str) -> tuple[tuple[int, int], list[dict]]:
        """(height, width) and the COCO annotations of one image, without ids."""
        size = self.size(image_id)
        annotations = []
        for instance in read_instances(self._records[image_id], size):
            rle = encode_masks(torch.from_numpy(np.ascontiguousarray(instance.mask))[None])[0]
            annotations.append(
                {
                    "category_id": self._category_of[instance.category],
                    "iscrowd": instance.iscrowd,
                    "segmentation": rle,
                    "area": float(mask_api.area(rle)),
                    "bbox": mask_api.toBbox(rle).tolist(),
                }
            )
        return size, annotations

    def coco(self, records: dict[str, tuple]) -> dict:
        """The whole ground truth as COCO instance annotations; ids from 1, as a matched 0 counts as no match."""
        images, annotations = [], []
        for image_id, ((height, width), found) in records.items():
            number = self.numbers[image_id]
            images.append({"id": number, "height": height, "width": width})
            annotations += [{"image_id": number, **annotation} for annotation in found]
        annotations = [{"id": number, **a} for number, a in enumerate(annotations, start=1)]
        categories = [{"id": self._category_of[i], "name": name} for i, name in enumerate(self._names)]
        return {"images": images, "annotations": annotations, "categories": categories}

"""Where the ground-truth instances of an evaluation come from: a COCO instance JSON, or panoptic PNGs.

(Mask pictures: mask_truth.py.) Each has `source`, `image_ids` in the order of the evaluation, `categories`,
and for an image `size`, `annotations` (COCO's, masks as RLE) and `original_id`.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property

import numpy as np
import pycocotools.mask as mask_api
import torch
from detectron2.utils.file_io import PathManager

from segcore.data.instance_json import read_instance_json

from .ground_truth import PanopticGroundTruth
from .masks import encode_masks


class JsonTruth:
    """Ground truth from a COCO instance JSON; read on first use.

    Raises (on use):
        FileNotFoundError: no such file.
        ValueError: no COCO instance file; or an annotation that cannot be measured: of an unknown image or
            category, a polygon of fewer than three points, an RLE of another size than the image.
    """

    def __init__(self, json_file: str):
        self.source = json_file

    @cached_property
    def _content(self) -> dict:
        if not PathManager.isfile(self.source):
            raise FileNotFoundError(
                f"instance annotations {self.source} do not exist; prepare the data set (datasets/README.md), or "
                "remove `json_file` from its metadata to take them from the panoptic annotations"
            )
        return read_instance_json(PathManager.get_local_path(self.source))

    @cached_property
    def _images(self) -> dict[str, dict]:
        images = sorted(self._content["images"], key=lambda image: image["id"])
        return {str(image["id"]): image for image in images}

    @cached_property
    def _annotations(self) -> dict[str, list[dict]]:
        of_image = defaultdict(list)
        for annotation in self._content["annotations"]:
            of_image[str(annotation["image_id"])].append(annotation)
        unknown = [image_id for image_id in of_image if image_id not in self._images]
        if unknown:
            raise ValueError(
                f"{self.source} has annotations of image {unknown[0]!r}, which is not among its "
                f"{len(self._images)} images"
            )
        return of_image

    @property
    def image_ids(self) -> list[str]:
        return list(self._images)

    @property
    def categories(self) -> list[dict]:
        return self._content["categories"]

    @cached_property
    def _category_ids(self) -> set[int]:
        return {category["id"] for category in self.categories}

    def size(self, image_id: str) -> tuple[int, int]:
        if image_id not in self._images:
            raise ValueError(f"image_id {image_id!r} is not in {self.source} ({len(self._images)} images)")
        return self._images[image_id]["height"], self._images[image_id]["width"]

    def original_id(self, image_id: str) -> int | str:
        return self._images[image_id]["id"]

    def annotations(self, image_id: str) -> list[dict]:
        return [self._measurable(annotation, image_id) for annotation in self._annotations.get(image_id, [])]

    def _measurable(self, annotation: dict, image_id: str) -> dict:
        where = f"{self.source}: annotation {annotation.get('id')} of image {image_id!r}"
        if annotation.get("category_id") not in self._category_ids:
            raise ValueError(f"{where} has category {annotation.get('category_id')!r}, which the file does not define")
        rle = to_rle(annotation.get("segmentation"), self.size(image_id), where)
        area = annotation.get("area")
        return {
            "category_id": annotation["category_id"],
            "iscrowd": int(annotation.get("iscrowd", 0)),
            "segmentation": rle,
            "area": float(mask_api.area(rle)) if area is None else area,
        }


def to_rle(segmentation, size: tuple[int, int], where: str) -> dict:
    """COCO polygons or RLE (compressed or not) as RLE that pycocotools takes.

    Raises:
        ValueError: nothing to draw, a polygon of fewer than three points, or an RLE of another size.
    """
    if isinstance(segmentation, dict):
        if tuple(segmentation["size"]) != tuple(size):
            raise ValueError(
                f"{where} has an RLE of size {tuple(segmentation['size'])}, but the image is {tuple(size)} (height, "
                "width)"
            )
        if isinstance(segmentation["counts"], list):
            return mask_api.frPyObjects(segmentation, *size)
        return segmentation
    if not segmentation:
        raise ValueError(f"{where} has no segmentation")
    for polygon in segmentation:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"{where} has a polygon of {len(polygon)} numbers; expected x, y of at least three points")
    return mask_api.merge(mask_api.frPyObjects(segmentation, *size))


class PanopticTruth:
    """Ground truth from the things of a panoptic data set; encoded where the image is processed."""

    def __init__(self, truth: PanopticGroundTruth):
        self._truth = truth
        self.source = truth.json_file

    @property
    def image_ids(self) -> list[str]:
        return list(self._truth.annotations)

    @property
    def categories(self) -> list[dict]:
        return [
            {"id": category["id"], "name": category.get("name", str(category["id"]))}
            for category in self._truth.categories
            if category["id"] in self._truth.things
        ]

    def size(self, image_id: str) -> tuple[int, int]:
        return self._truth.ids(image_id).shape

    def original_id(self, image_id: str) -> int | str:
        return self._truth.annotation(image_id)["image_id"]

    def annotations(self, image_id: str) -> list[dict]:
        ids = torch.from_numpy(np.ascontiguousarray(self._truth.ids(image_id)))
        annotations = []
        for segment in self._truth.annotation(image_id)["segments_info"]:
            if segment["category_id"] not in self._truth.things:
                continue
            rle = encode_masks((ids == segment["id"])[None])[0]
            annotations.append(
                {
                    "category_id": segment["category_id"],
                    "iscrowd": int(bool(segment.get("iscrowd", 0))),
                    "segmentation": rle,
                    "area": float(mask_api.area(rle)),
                }
            )
        return annotations

"""COCO instance annotations: images and one JSON with polygons or RLE."""

from __future__ import annotations

import json
import logging
import os
from collections import defaultdict
from dataclasses import dataclass

from .metadata import class_index_of
from .panoptic_folder import report, with_files

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InstanceJson:
    """Where one split lies."""

    image_root: str
    json_file: str

    def paths(self) -> dict[str, str]:
        """The metadata fields: Detectron2's names."""
        return {"image_root": self.image_root, "json_file": self.json_file}

    def load(self, metadata, problems: list[str] | None = None) -> list[dict]:
        """A dict per image: file_name, image_id, height, width, and annotations ({segmentation,
        category_id (class index), iscrowd}). An image without annotations stays: it shows no object.

        Raises:
            FileNotFoundError, ValueError: the JSON or an image is not there, or an annotation has no
                segmentation or an unknown category or image; those of single images go to `problems`
                where it is given.
        """
        content = read_instance_json(self.json_file)
        of_image = defaultdict(list)
        for annotation in content["annotations"]:
            of_image[annotation["image_id"]].append(annotation)
        index = class_index_of(metadata)
        records = []
        for image in content["images"]:
            try:
                annotations = [self._annotation(a, image, index) for a in of_image.pop(image["id"], [])]
            except ValueError as error:
                report(error, problems)
                continue
            path = os.path.join(self.image_root, image["file_name"])
            size = {side: image[side] for side in ("height", "width") if side in image}
            records.append({"file_name": path, "image_id": image["id"], **size, "annotations": annotations})
        for image_id, annotations in of_image.items():
            message = f"{self.json_file}: {len(annotations)} annotations belong to image {image_id!r}, which "
            report(ValueError(message + f"is not among its {len(content['images'])} images"), problems)
        records = with_files(records, ("file_name",), self.json_file, problems)
        logger.info("%d images from %s", len(records), self.json_file)
        return records

    def _annotation(self, annotation: dict, image: dict, index: dict[int, int]) -> dict:
        where = f"{self.json_file}: annotation {annotation.get('id')} of {image['file_name']}"
        if annotation.get("category_id") not in index:
            raise ValueError(
                f"{where} has category {annotation.get('category_id')!r}, which is not one of the data set's "
                f"{len(index)} categories"
            )
        if not annotation.get("segmentation"):
            raise ValueError(f"{where} has no segmentation; boxes alone cannot train a mask")
        return {
            "id": annotation.get("id"),
            "segmentation": annotation["segmentation"],
            "category_id": index[annotation["category_id"]],
            "iscrowd": int(annotation.get("iscrowd", 0)),
        }


def read_instance_json(path: str) -> dict:
    """The parsed annotation file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON, or no COCO instance file.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"instance annotation file {path} does not exist")
    with open(path, encoding="utf-8") as file:
        try:
            content = json.load(file)
        except ValueError as error:
            raise ValueError(f"{path} is not valid JSON ({error}); write or download it again") from error
    needed = {"images", "annotations", "categories"}
    lacking = needed - content.keys() if isinstance(content, dict) else needed
    if lacking or not content["images"] or not content["categories"]:
        missing = sorted(lacking) or [key for key in ("images", "categories") if not content[key]]
        raise ValueError(f"{path} is no COCO instance file: it has no {' and no '.join(missing)}")
    return content

"""Instance AP of a registered data set, through faster-coco-eval."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import pycocotools.mask as mask_api
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils.file_io import PathManager
from faster_coco_eval import COCO, COCOeval_faster

from .distributed import gather_by_image, model_output
from .ground_truth import PanopticGroundTruth, check_complete, required
from .mask_truth import MaskTruth
from .masks import encode_masks
from .results import write_json

logger = logging.getLogger(__name__)

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


class InstanceEvaluator(DatasetEvaluator):
    """COCO's average precision of instance masks.

    The ground truth is `metadata.json_file` (COCO instance JSON) when the data set has one, else the things
    of its panoptic PNGs: each non-crowd thing an instance, each crowd an iscrowd region. Predictions, and the
    ground truth made from PNGs, are kept as RLE on the process that saw the image.

    Predicted classes are class indices (into metadata.stuff_classes), except for data sets whose metadata has
    `instance_class_map`: there they count the thing classes only (index into metadata.thing_classes).

    Args:
        dataset_name: a registered data set with `thing_dataset_id_to_contiguous_id`.
        output_dir: where `save_predictions` writes. Nothing is written otherwise.
        save_predictions: write `coco_instances_results.json`, COCO's result format.
        distributed: gather from all processes; False evaluates this process's images only.
        max_detections: how many of an image's predictions of a category count, best first.
        ground_truth: share one that other evaluators of this data set use.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        *,
        save_predictions: bool = False,
        distributed: bool = True,
        max_detections: int = 100,
        ground_truth: PanopticGroundTruth | None = None,
    ):
        if save_predictions and output_dir is None:
            raise ValueError("save_predictions=True needs an output_dir to write to")
        self._dataset_name = dataset_name
        metadata = MetadataCatalog.get(dataset_name)
        self._category_of_class = _category_of_class(metadata)
        json_file = metadata.get("json_file")
        if json_file:
            self._truth = _JsonTruth(json_file)
        elif metadata.get("mask_root"):
            self._truth = MaskTruth(dataset_name)
        else:
            self._truth = _PanopticTruth((ground_truth or PanopticGroundTruth(dataset_name)).checked())
        self._distributed = distributed
        self._max_detections = max_detections
        self._results_file = (
            os.path.join(output_dir, "coco_instances_results.json") if save_predictions else None
        )
        self.reset()

    def reset(self) -> None:
        self._records: dict[str, tuple[list[dict], object]] = {}

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """Keep one batch's instances as RLE.

        Args:
            inputs: dicts with "image_id".
            outputs: dicts with "instances": Instances with pred_masks ((N, H, W), bool or 0..1, cut at 0.5),
                scores and pred_classes.

        Raises:
            ValueError: a class that is no thing, masks of another size than the image, an unknown image.
        """
        for image, output in zip(inputs, outputs):
            image_id = str(image["image_id"])
            if image_id in self._records:
                continue  # a padded batch: this image has been counted
            instances = model_output(output, "instances", self)
            size = self._truth.size(image_id)
            if tuple(instances.pred_masks.shape[-2:]) != size:
                raise ValueError(
                    f"image {image_id!r}: predicted masks are {tuple(instances.pred_masks.shape[-2:])} "
                    f"(height, width) but the ground truth is {size}"
                )
            self._records[image_id] = (self._predictions(instances), self._truth.record(image_id))

    def _predictions(self, instances: Instances) -> list[dict]:
        categories = []
        for index in instances.pred_classes.tolist():
            if index not in self._category_of_class:
                raise ValueError(
                    f"predicted class {index} is no thing class of '{self._dataset_name}'; "
                    f"those are {sorted(self._category_of_class)}"
                )
            categories.append(self._category_of_class[index])
        rles = encode_masks(instances.pred_masks)
        return [
            {"category_id": category, "segmentation": rle, "score": score}
            for category, rle, score in zip(categories, rles, instances.scores.tolist())
        ]

    def evaluate(self) -> OrderedDict:
        """{"segm": {"AP", "AP50", "AP75", "APs", "APm", "APl", "AP-<category>": percent}}; {} elsewhere.

        NaN where there is no ground truth to find. To be called by all processes.

        Raises:
            ValueError: not every image of the ground truth was processed.
        """
        records = gather_by_image(self._records, self._distributed)
        if records is None:
            return OrderedDict()
        check_complete(records, self._truth.image_ids, self._dataset_name)
        if self._results_file:
            write_json(self._results_file, self._collect(records, self._truth.original_id))
        truth = self._truth.coco({image_id: record for image_id, (_, record) in records.items()})
        predictions = self._collect(records, self._truth.numbers.__getitem__)
        self._check_categories(truth, predictions)
        return OrderedDict(segm=average_precision(truth, predictions, self._max_detections))

    def _collect(self, records: dict[str, tuple], id_of: Callable[[str], int | str]) -> list[dict]:
        """COCO results in the ground truth's order of images, so that ties of score always fall alike."""
        return [
            {"image_id": id_of(image_id), **prediction}
            for image_id in sorted(records, key=self._truth.numbers.__getitem__)
            for prediction in records[image_id][0]
        ]

    def _check_categories(self, truth: dict, predictions: list[dict]) -> None:
        known = {category["id"] for category in truth["categories"]}
        unknown = sorted({prediction["category_id"] for prediction in predictions} - known)
        if unknown:
            raise ValueError(
                f"predictions have category ids {unknown} that {self._truth.source} does not define (it has "
                f"{sorted(known)}); thing_dataset_id_to_contiguous_id of the metadata belongs to another file"
            )


def average_precision(truth: dict, predictions: list[dict], max_detections: int = 100) -> dict[str, float]:
    """COCO's mask AP, in percent: `METRICS` and "AP-<category name>"; NaN without ground truth.

    Args:
        truth: COCO instance annotations ("images", "annotations", "categories").
        predictions: COCO results ("image_id", "category_id", "segmentation" as RLE, "score").
    """
    names = [category["name"] for category in sorted(truth["categories"], key=lambda c: c["id"])]
    if not truth["annotations"]:
        return {metric: float("nan") for metric in (*METRICS, *(f"AP-{name}" for name in names))}
    reference = COCO(truth)
    found = reference.loadRes([dict(prediction) for prediction in predictions])
    evaluation = COCOeval_faster(reference, found, iouType="segm", print_function=logger.debug)
    evaluation.params.maxDets = [1, 10, max_detections]
    evaluation.run()
    result = {metric: _percent(evaluation.stats[k]) for k, metric in enumerate(METRICS)}
    precision = evaluation.eval[
        "precision"
    ]  # (IoU, recall, category, area, max detections), -1 = no ground truth
    for k, name in enumerate(names):
        values = precision[:, :, k, 0, -1]
        result[f"AP-{name}"] = _percent(values.mean() if (values > -1).all() else -1.0)
    return result


def _percent(value: float) -> float:
    return 100 * float(value) if value >= 0 else float("nan")


def _category_of_class(metadata) -> dict[int, int]:
    """Predicted class -> category id of the data set."""
    things = required(metadata, "thing_dataset_id_to_contiguous_id", "instance evaluation")
    if metadata.get("instance_class_map") is None:
        return {index: category for category, index in things.items()}
    names = required(metadata, "thing_classes", "data sets with instance_class_map")
    if len(names) != len(things):
        raise ValueError(
            f"data set '{metadata.name}' has instance_class_map, so predicted classes index its "
            f"thing_classes; but it has {len(names)} thing_classes and {len(things)} thing categories"
        )
    return dict(enumerate(sorted(things, key=things.__getitem__)))


class _JsonTruth:
    """Ground truth from a COCO instance JSON."""

    def __init__(self, json_file: str):
        self.source = json_file

    @cached_property
    def _content(self) -> dict:
        if not PathManager.isfile(self.source):
            raise FileNotFoundError(
                f"instance annotations {self.source} do not exist; prepare the data set, or remove "
                "`json_file` from its metadata to take them from the panoptic annotations"
            )
        coco = COCO(PathManager.get_local_path(self.source))
        if not coco.dataset.get("categories") or "annotations" not in coco.dataset:
            raise ValueError(f"{self.source} lacks categories or annotations; expected COCO instance format")
        return coco.dataset

    @cached_property
    def _images(self) -> dict[str, dict]:
        return {str(image["id"]): image for image in self._content["images"]}

    @cached_property
    def numbers(self) -> dict[str, int]:
        return {key: image["id"] for key, image in self._images.items()}

    @property
    def image_ids(self) -> list[str]:
        return list(self._images)

    def size(self, image_id: str) -> tuple[int, int]:
        if image_id not in self._images:
            raise ValueError(f"image_id {image_id!r} is not in {self.source} ({len(self._images)} images)")
        return self._images[image_id]["height"], self._images[image_id]["width"]

    def original_id(self, image_id: str) -> int:
        return self.numbers[image_id]

    def record(self, image_id: str) -> None:
        return None

    def coco(self, records: dict[str, None]) -> dict:
        return self._content


class _PanopticTruth:
    """Ground truth from the things of a panoptic data set; encoded where the image is processed."""

    def __init__(self, truth: PanopticGroundTruth):
        self._truth = truth
        self.source = truth.json_file

    @cached_property
    def numbers(self) -> dict[str, int]:
        # faster-coco-eval wants integers; some data sets' image ids are names.
        return {key: number for number, key in enumerate(self._truth.annotations, start=1)}

    @property
    def image_ids(self) -> list[str]:
        return list(self._truth.annotations)

    def size(self, image_id: str) -> tuple[int, int]:
        return self._truth.ids(image_id).shape

    def original_id(self, image_id: str) -> int | str:
        return self._truth.annotation(image_id)["image_id"]

    def record(self, image_id: str) -> tuple[tuple[int, int], list[dict]]:
        ids = torch.from_numpy(np.ascontiguousarray(self._truth.ids(image_id)))
        segments = [
            segment
            for segment in self._truth.annotation(image_id)["segments_info"]
            if segment["category_id"] in self._truth.things
        ]
        annotations = []
        for segment in segments:
            rle = encode_masks((ids == segment["id"])[None])[0]
            annotations.append(
                {
                    "category_id": segment["category_id"],
                    "iscrowd": int(bool(segment.get("iscrowd", 0))),
                    "segmentation": rle,
                    "area": float(mask_api.area(rle)),
                    "bbox": mask_api.toBbox(rle).tolist(),
                }
            )
        return self.size(image_id), annotations

    def coco(self, records: dict[str, tuple]) -> dict:
        images, annotations = [], []
        for image_id in self.image_ids:
            (height, width), segments = records[image_id]
            number = self.numbers[image_id]
            images.append({"id": number, "height": height, "width": width})
            for segment in segments:  # ids from 1: the evaluation takes a matched id of 0 for "no match"
                annotations.append({"id": len(annotations) + 1, "image_id": number, **segment})
        categories = [
            {"id": category["id"], "name": category.get("name", str(category["id"]))}
            for category in self._truth.categories
            if category["id"] in self._truth.things
        ]
        return {"images": images, "annotations": annotations, "categories": categories}

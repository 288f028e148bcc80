"""Instance AP of a registered data set, matched where the image is seen."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence

from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm

from .coco_ap import METRICS, Matches, average_precision, match_image
from .distributed import gather_by_image, model_output
from .ground_truth import PanopticGroundTruth, check_complete, required
from .instance_truth import JsonTruth, PanopticTruth
from .mask_truth import MaskTruth
from .masks import encode_masks
from .prediction_log import PredictionLog, merge_logs
from .submission import INSTANCE_JSON, folder_to_save_in

__all__ = ["METRICS", "InstanceEvaluator"]


class InstanceEvaluator(DatasetEvaluator):
    """COCO's average precision of instance masks.

    The ground truth is `metadata.json_file` (COCO instance JSON) when the data set has one, else the things
    of its panoptic PNGs: each non-crowd thing an instance, each crowd an iscrowd region. An image is matched by
    the process that saw it; what is kept and sent are its matches, no mask (`coco_ap`).

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
        folder = folder_to_save_in(output_dir, save_predictions)
        self._dataset_name = dataset_name
        metadata = MetadataCatalog.get(dataset_name)
        self._category_of_class = _category_of_class(metadata)
        json_file = metadata.get("json_file")
        if json_file:
            self._truth = JsonTruth(json_file)
        elif metadata.get("mask_root"):
            self._truth = MaskTruth(dataset_name)
        else:
            self._truth = PanopticTruth((ground_truth or PanopticGroundTruth(dataset_name)).checked())
        self._distributed = distributed
        self._max_detections = max_detections
        self._log = PredictionLog(os.path.join(folder, INSTANCE_JSON)) if folder else None
        self.reset()

    def reset(self) -> None:
        self._records: dict[str, dict[int, Matches]] = {}
        if self._log:
            self._log.clear()

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """Match one batch's instances.

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
            predictions = self._predictions(instances)
            if self._log:
                original = self._truth.original_id(image_id)
                self._log.add(image_id, [{"image_id": original, **prediction} for prediction in predictions])
            truths = self._truth.annotations(image_id)
            self._records[image_id] = match_image(truths, predictions, self._max_detections)

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
        parts = self._gathered_logs()
        records = gather_by_image(self._records, self._distributed)
        if records is None:
            return OrderedDict()
        check_complete(records, self._truth.image_ids, self._dataset_name)
        self._check_categories(records)
        if parts:
            merge_logs(parts, self._truth.image_ids, self._log.path)
        # In the ground truth's order of images, so that ties of score always fall alike.
        images = (records[image_id] for image_id in self._truth.image_ids if image_id in records)
        return OrderedDict(segm=average_precision(images, self._truth.categories))

    def _gathered_logs(self) -> list[str]:
        if not self._log:
            return []
        return comm.gather(self._log.part, dst=0) if self._distributed else [self._log.part]

    def _check_categories(self, records: dict[str, dict[int, Matches]]) -> None:
        known = {category["id"] for category in self._truth.categories}
        unknown = sorted({category for matches in records.values() for category in matches} - known)
        if unknown:
            raise ValueError(
                f"predictions have category ids {unknown} that {self._truth.source} does not define (it has "
                f"{sorted(known)}); thing_dataset_id_to_contiguous_id of the metadata belongs to another file"
            )


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

"""PQ of a registered data set, in memory; a drop-in for Detectron2's COCOPanopticEvaluator."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils.file_io import PathManager
from tabulate import tabulate

from .distributed import gather_by_image, model_output
from .ground_truth import PanopticGroundTruth, check_complete, required, write_panoptic_png
from .panoptic_quality import PanopticStat, match_segments
from .results import write_json
from .submission import PANOPTIC_FOLDER, PANOPTIC_JSON, folder_to_save_in

logger = logging.getLogger(__name__)


class PanopticEvaluator(DatasetEvaluator):
    """Panoptic quality with COCO's rules, things and stuff apart.

    Unlike Detectron2's it needs no panopticapi, writes no PNG, counts images where they are processed (only
    counts travel between processes) and never counts an image twice.

    Args:
        dataset_name: a registered data set; see `PanopticGroundTruth` for the metadata it needs.
        output_dir: where `save_predictions` writes. Nothing is written otherwise.
        save_predictions: write `panoptic/*.png` and `panoptic_predictions.json`, COCO's submission format.
        distributed: gather from all processes; False evaluates this process's images only.
        ground_truth: share one that other evaluators of this data set use.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        *,
        save_predictions: bool = False,
        distributed: bool = True,
        ground_truth: PanopticGroundTruth | None = None,
    ):
        folder = folder_to_save_in(output_dir, save_predictions)
        self._truth = (ground_truth or PanopticGroundTruth(dataset_name)).checked()
        self._metadata = self._truth.metadata
        self._category_of_thing = {index: category for category, index in self._truth.things.items()}
        self._category_of_stuff = {index: category for category, index in self._truth.stuff.items()}
        self._distributed = distributed
        self._png_dir = os.path.join(folder, PANOPTIC_FOLDER) if folder else None
        self._output_dir = output_dir
        self.reset()

    def reset(self) -> None:
        self._records: dict[str, tuple[PanopticStat, dict | None]] = {}
        if self._png_dir:
            PathManager.mkdirs(self._png_dir)

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """Count one batch.

        Args:
            inputs: dicts with "image_id".
            outputs: dicts with "panoptic_seg": (ids, segments_info). Either ids is an (H, W) integer tensor
                with 0 = void and segments_info [{"id", "category_id", "isthing"}] holds class indices (or,
                without "isthing", category ids of the data set), or segments_info is None and ids holds
                class * metadata.label_divisor + instance, with -1 = void.

        Raises:
            ValueError: an id, category, size or image that does not fit the ground truth, naming the image.
        """
        for image, output in zip(inputs, outputs):
            image_id = image["image_id"]
            if str(image_id) in self._records:
                continue  # a padded batch: this image has been counted
            gt_ids, gt_segments = self._truth.ids(image_id), self._truth.annotation(image_id)["segments_info"]
            try:
                ids, segments = self._prediction(*model_output(output, "panoptic_seg", self))
                stat = match_segments(ids, segments, gt_ids, gt_segments, PanopticStat.over(self._is_thing))
            except (ValueError, TypeError) as error:
                raise type(error)(f"image {image_id!r} ({self._truth.png_path(image_id)}): {error}") from error
            self._records[str(image_id)] = (stat, self._save(image_id, ids, segments))

    @cached_property
    def _is_thing(self) -> dict[int, bool]:
        return PanopticStat(self._truth.categories).is_thing

    def _prediction(self, ids, segments: Sequence[dict] | None) -> tuple[np.ndarray, list[dict]]:
        """Id map (0 = void) and segments with the data set's category ids, from either form of output."""
        ids = ids.cpu().numpy() if hasattr(ids, "cpu") else np.asarray(ids)
        if segments is None:
            ids, segments = self._decode(ids)
        return ids, [self._with_category_id(segment) for segment in segments]

    def _decode(self, labels: np.ndarray) -> tuple[np.ndarray, list[dict]]:
        """Split class * label_divisor + instance; ids become label + 1, so that 0 is void."""
        divisor = required(self._metadata, "label_divisor", "panoptic maps without segments_info")
        segments = []
        for label in np.unique(labels).tolist():
            if label == -1:
                continue
            index = label // divisor
            segments.append({"id": label + 1, "category_id": index, "isthing": index in self._category_of_thing})
        return labels + 1, segments

    def _with_category_id(self, segment: dict) -> dict:
        """The segment with the data set's category id in place of the class index."""
        if segment.get("isthing") is None:
            return {"id": int(segment["id"]), "category_id": int(segment["category_id"])}
        kind, table = ("thing", self._category_of_thing) if segment["isthing"] else ("stuff", self._category_of_stuff)
        index = int(segment["category_id"])
        if index not in table:
            raise ValueError(
                f"predicted segment {segment} has class {index}, which is no {kind} class of "
                f"'{self._truth.dataset_name}'; those are {sorted(table)}"
            )
        return {"id": int(segment["id"]), "category_id": table[index]}

    def _save(self, image_id, ids: np.ndarray, segments: list[dict]) -> dict | None:
        if self._png_dir is None:
            return None
        annotation = self._truth.annotation(image_id)
        file_name = os.path.splitext(annotation["file_name"])[0] + ".png"
        path = os.path.join(self._png_dir, file_name)
        PathManager.mkdirs(os.path.dirname(path))
        write_panoptic_png(path, ids)
        return {"image_id": annotation["image_id"], "file_name": file_name, "segments_info": segments}

    def evaluate(self) -> OrderedDict:
        """{"panoptic_seg": {"PQ", "SQ", "RQ" and the same with _th, _st: percent}}; {} on other processes.

        A group without any category (no stuff, say) is NaN. To be called by all processes.

        Raises:
            ValueError: not every annotated image was processed.
        """
        records = gather_by_image(self._records, self._distributed)
        if records is None:
            return OrderedDict()
        check_complete(records, self._truth.annotations, self._truth.dataset_name)
        total = PanopticStat(self._truth.categories)
        for stat, _ in records.values():
            total += stat
        self._log(total)
        if self._png_dir:
            predictions = [records[image_id][1] for image_id in self._truth.annotations]
            content = {"annotations": predictions, "categories": self._truth.categories}
            write_json(os.path.join(self._output_dir, PANOPTIC_JSON), content)
        suffixes = {"All": "", "Things": "_th", "Stuff": "_st"}
        return OrderedDict(
            panoptic_seg={
                key.upper() + suffixes[group]: 100 * values[key]
                for group, values in total.result().items()
                for key in ("pq", "sq", "rq")
            }
        )

    def _log(self, total: PanopticStat) -> None:
        names = {category["id"]: category.get("name", category["id"]) for category in self._truth.categories}
        rows = [
            [
                names[category],
                *(100 * row[key] for key in ("pq", "sq", "rq")),
                row["tp"],
                row["fp"],
                row["fn"],
            ]
            for category, row in total.per_category().items()
        ]
        headers = ["category", "PQ", "SQ", "RQ", "TP", "FP", "FN"]
        logger.info("Panoptic quality per category:\n%s", tabulate(rows, headers, tablefmt="pipe", floatfmt=".3f"))

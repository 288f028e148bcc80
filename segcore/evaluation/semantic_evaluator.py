"""mIoU and its relatives: Detectron2's SemSegEvaluator over any panoptic or semantic data set."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, SemSegEvaluator
from detectron2.utils.file_io import PathManager
from PIL import Image

from segcore.data.layers import apply_label_classes

from .distributed import gather_by_image, model_output
from .ground_truth import PanopticGroundTruth, check_complete, required, save_png
from .pairs import count_table, pair_counts
from .submission import folder_to_save_in


class SemanticEvaluator(SemSegEvaluator):
    """mIoU, fwIoU, mACC and pACC, in percent, with "IoU-<class>" and "ACC-<class>", under "sem_seg".

    The metrics are Detectron2's own `evaluate`. Around it: the ground truth may come from the panoptic PNG,
    no RLE of every prediction is held in memory, an image that a padding sampler repeats counts once, and
    boundary IoU (most of Detectron2's time) is left out.

    Args:
        dataset_name: a registered data set. The ground truth is its records' "sem_seg_file_name" (label PNG,
            class indices and metadata.ignore_label) when they have one, else made from the panoptic PNG and
            JSON.
        output_dir: where `save_predictions` writes. Nothing is written otherwise.
        save_predictions: write `semantic/<image>.png`, class indices plus metadata.submission_offset (ADE20K
            counts from 1), 8 bit (16 from 256 classes on).
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
        # Not SemSegEvaluator.__init__: it insists on a label PNG for every image of the data set.
        DatasetEvaluator.__init__(self)
        folder = folder_to_save_in(output_dir, save_predictions)
        metadata = MetadataCatalog.get(dataset_name)
        # Detectron2's `evaluate` logs its bare dict, two numbers per class; the table at the end says it.
        self._logger = logging.getLogger(f"{__name__}.dict")
        self._logger.setLevel(logging.WARNING)
        self._dataset_name = dataset_name
        self._class_names = required(metadata, "stuff_classes", "semantic evaluation")
        self._num_classes = len(self._class_names)
        self._ignore_label = required(metadata, "ignore_label", "semantic evaluation")
        self._offset = metadata.get("submission_offset", 0)
        self._label_files = _label_files(dataset_name)
        tables = {key: metadata.get(key, None) for key in ("label_classes", "ignored_labels")}
        self._label_tables = tables if tables["label_classes"] is not None else None
        self._truth = None if self._label_files else (ground_truth or PanopticGroundTruth(dataset_name)).checked()
        self._png_dir = os.path.join(folder, "semantic") if folder else None
        self._gather = distributed
        # What Detectron2's `evaluate` reads: it sums, prints and returns; gathering and writing are done
        # here.
        self._distributed = False
        self._output_dir = None
        self._compute_boundary_iou = False
        self.reset()

    def reset(self) -> None:
        super().reset()
        self._records: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        if self._png_dir:
            PathManager.mkdirs(self._png_dir)

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """Count one batch.

        Args:
            inputs: dicts with "file_name", and with "image_id" when the ground truth is panoptic.
            outputs: dicts with "sem_seg": (C, H, W) scores of the classes, or an (H, W) integer label map.

        Raises:
            ValueError: sizes, labels or files that do not fit the ground truth, naming the image.
        """
        for image, output in zip(inputs, outputs):
            key = str(image["file_name"] if self._label_files else image["image_id"])
            if key in self._records:
                continue  # a padded batch: this image has been counted
            predicted = self._labels(model_output(output, "sem_seg", self), key)
            truth = self._ground_truth(key)
            if predicted.shape != truth.shape:
                raise ValueError(
                    f"image {key!r}: the predicted map is {predicted.shape} (height, width) but the ground "
                    f"truth {truth.shape}"
                )
            size = self._num_classes + 1
            columns, rows, pixels = pair_counts(truth, predicted)
            columns[columns == self._ignore_label] = self._num_classes
            counts = count_table(rows, columns, pixels, (size, size)).reshape(-1)
            used = np.flatnonzero(counts)
            self._records[key] = (used, counts[used])
            if self._png_dir:
                stem = os.path.splitext(os.path.basename(image["file_name"]))[0]
                dtype = np.uint8 if self._num_classes + self._offset <= 256 else np.uint16
                save_png(os.path.join(self._png_dir, f"{stem}.png"), (predicted + self._offset).astype(dtype))

    def _labels(self, output: torch.Tensor, key: str) -> np.ndarray:
        if output.dim() == 3 and output.shape[0] == self._num_classes:
            return output.argmax(dim=0).cpu().numpy()
        if output.dim() == 2 and not output.is_floating_point():
            labels = output.cpu().numpy()
            if labels.min() >= 0 and labels.max() < self._num_classes:
                return labels
        raise ValueError(
            f"image {key!r}: 'sem_seg' must be ({self._num_classes}, H, W) class scores or an (H, W) map of "
            f"labels below {self._num_classes}, got {tuple(output.shape)} {output.dtype}"
        )

    def _ground_truth(self, key: str) -> np.ndarray:
        """(H, W) class indices, void as the ignore label."""
        if self._truth is not None:
            return self._truth.class_map(key, self._ignore_label)
        if key not in self._label_files:
            raise ValueError(f"image {key!r} is not a file_name of the data set '{self._dataset_name}'")
        path = self._label_files[key]
        labels = self._class_indices(_read_label_png(path), path)
        wrong = np.unique(labels[(labels >= self._num_classes) & (labels != self._ignore_label)])
        if wrong.size:
            raise ValueError(
                f"label PNG {path} has labels {wrong[:10].tolist()}; expected below {self._num_classes} or "
                f"{self._ignore_label} (ignored)"
            )
        return labels

    def _class_indices(self, labels: np.ndarray, path: str) -> np.ndarray:
        """The label values of a user's own set as class indices."""
        if self._label_tables is None:
            return labels
        classes = apply_label_classes(labels, {**self._label_tables, "sem_seg_file_name": path})
        return np.where(classes < 0, self._ignore_label, classes)

    def evaluate(self) -> OrderedDict:
        """{"sem_seg": metrics}; {} on other processes. To be called by all processes.

        Raises:
            ValueError: not every image of the data set was processed.
        """
        records = gather_by_image(self._records, self._gather)
        if records is None:
            return OrderedDict()
        expected = self._label_files or self._truth.annotations
        check_complete(records, expected, self._dataset_name)
        self._conf_matrix[:] = 0
        flat = self._conf_matrix.reshape(-1)
        for used, counts in records.values():
            flat[used] += counts
        with np.errstate(invalid="ignore"):  # 0 / 0, hence NaN, when no pixel of the data set has a class
            metrics = super().evaluate()["sem_seg"]
        return OrderedDict(sem_seg={name: float(value) for name, value in metrics.items()})


def _label_files(dataset_name: str) -> dict[str, str]:
    """file_name -> label PNG, for a data set whose records name one; else empty."""
    if dataset_name not in DatasetCatalog.list():  # known by its metadata only
        return {}
    records = DatasetCatalog.get(dataset_name)
    files = {r["file_name"]: r["sem_seg_file_name"] for r in records if r.get("sem_seg_file_name")}
    if files and len(files) != len(records):
        raise ValueError(
            f"data set '{dataset_name}': {len(records)} records but {len(files)} distinct images with a "
            "sem_seg_file_name; give one to every image or to none"
        )
    return files


def _read_label_png(path: str) -> np.ndarray:
    if not PathManager.isfile(path):
        raise FileNotFoundError(f"label PNG {path} does not exist, though the data set names it")
    try:
        with PathManager.open(path, "rb") as file, Image.open(file) as image:
            labels = np.asarray(image)
    except (OSError, SyntaxError) as error:  # both are Pillow's ways to say "broken file"
        raise ValueError(f"label PNG {path} cannot be decoded: {error}") from error
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise ValueError(f"label PNG {path} must hold one integer label per pixel, got {labels.shape} {labels.dtype}")
    return labels

"""AP and mIoU of Cityscapes by cityscapesscripts' own functions, one image at a time.

The scripts want all predictions as files in one folder. Here each image goes through their functions where
it was predicted, and what they made of it (matches, confusion counts) is kept: a few kilobytes instead of
pictures. The first process puts these together, so no disk has to be shared, and no GPU is needed.
"""

from __future__ import annotations

import copy
import importlib
import io
import os
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from PIL import Image

from segcore.data.cityscapes_tools import cityscapes_labels, require_cityscapesscripts

from .distributed import gather_by_image, model_output
from .ground_truth import PanopticGroundTruth, check_complete, required, save_png, save_text
from .submission import folder_to_save_in


class _Evaluator(DatasetEvaluator):
    """What both tasks share: the ground-truth files and the class table.

    Args:
        dataset_name: its metadata must have `gt_dir` (Cityscapes' gtFine/SPLIT) and `stuff_classes`,
            Cityscapes' names in the order of the class indices that are predicted.
        output_dir: where `save_predictions` writes. Nothing is written otherwise.
        save_predictions: write what Cityscapes' evaluation server takes.
        distributed: gather from all processes; False evaluates this process's images only.
        ground_truth: not used; all evaluators of the builder take it.

    Raises:
        ImportError: cityscapesscripts is not installed.
        ValueError: metadata is missing, or a class that Cityscapes does not have.
    """

    _suffix: str

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        *,
        save_predictions: bool = False,
        distributed: bool = True,
        ground_truth: PanopticGroundTruth | None = None,
    ):
        require_cityscapesscripts(f"evaluating {dataset_name!r}")
        metadata = MetadataCatalog.get(dataset_name)
        self._dataset_name = dataset_name
        self._gt_dir = required(metadata, "gt_dir", "evaluation by cityscapesscripts")
        ids = {label.name: label.id for label in cityscapes_labels()}
        names = required(metadata, "stuff_classes", "evaluation by cityscapesscripts")
        unknown = [name for name in names if name not in ids]
        if unknown:
            raise ValueError(f"data set '{dataset_name}' has the class {unknown[0]!r}, which Cityscapes does not have")
        self._label_ids = np.array([ids[name] for name in names], dtype=np.uint8)
        self._names = list(names)
        self._save_dir = folder_to_save_in(output_dir, save_predictions)
        self._distributed = distributed
        self.reset()

    def reset(self) -> None:
        self._records: dict[str, object] = {}

    @cached_property
    def _truth(self) -> dict[str, str]:
        """CITY_SEQUENCE_FRAME -> ground-truth PNG, in the order of the names."""
        found = {p.name[: -len(self._suffix)]: str(p) for p in Path(self._gt_dir).glob(f"*/*{self._suffix}")}
        if not found:
            raise FileNotFoundError(
                f"data set '{self._dataset_name}': there is no */*{self._suffix} in {self._gt_dir}; check "
                "DETECTRON2_DATASETS"
            )
        return dict(sorted(found.items()))

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """Count one batch.

        Args:
            inputs: dicts with "file_name", Cityscapes' name of the image.
            outputs: dicts with "instances" or "sem_seg".

        Raises:
            ValueError: an image without ground truth, or a result of another size than it.
        """
        for image, output in zip(inputs, outputs):
            stem = os.path.basename(image["file_name"]).removesuffix("_leftImg8bit.png")
            if stem in self._records:
                continue  # a padded batch: this image has been counted
            if stem not in self._truth:
                raise ValueError(f"image {image['file_name']!r} has no {stem}{self._suffix} in {self._gt_dir}")
            self._records[stem] = self._measure(stem, output)

    def _measure(self, stem: str, output: dict):
        raise NotImplementedError

    def _check_size(self, stem: str, found: Sequence[int], truth: Sequence[int]) -> None:
        if tuple(found) != tuple(truth):
            raise ValueError(
                f"image {stem!r}: the prediction is {tuple(found)} (height, width) but {self._truth[stem]} is "
                f"{tuple(truth)}"
            )

    def _gathered(self) -> dict[str, object] | None:
        """All records in the order of the ground truth, on the first process."""
        records = gather_by_image(self._records, self._distributed)
        if records is None:
            return None
        check_complete(records, self._truth, self._dataset_name)
        return {stem: records[stem] for stem in self._truth if stem in records}


class CityscapesInstanceEvaluator(_Evaluator):
    """Cityscapes' AP and AP50 (regions of at least 100 pixels), in percent, under "segm".

    With `save_predictions` writes `instance/CITY_..._pred.txt` and the masks that it names.
    """

    _suffix = "_gtFine_instanceIds.png"

    def _measure(self, stem: str, output: dict) -> dict:
        scripts, arguments = _instance_scripts()
        instances = model_output(output, "instances", self)
        path = self._truth[stem]
        with Image.open(path) as picture:
            truth = np.array(picture)
        masks = instances.pred_masks
        self._check_size(stem, masks.shape[-2:], truth.shape)
        classes = [self._label_of(index, stem) for index in instances.pred_classes.tolist()]
        scores = instances.scores.tolist()
        found = scripts.instances2dict([path], False)[os.path.abspath(path)]
        predictions = {}
        for mask, label_id, score in zip(masks, classes, scores):
            binary = (mask if mask.dtype == torch.bool else mask > 0.5).cpu().numpy()
            predictions[_as_file(binary.astype(np.uint8))] = {"labelID": label_id, "conf": score}
        truths, matches = scripts.assignGt2Preds(
            scripts.filterGtInstances(found, arguments), truth, predictions, arguments
        )
        if self._save_dir:
            self._save(stem, masks, classes, scores)
        return {"groundTruth": _without_files(truths), "prediction": _without_files(matches)}

    def _label_of(self, index: int, stem: str) -> int:
        if not 0 <= index < len(self._label_ids):
            raise ValueError(
                f"image {stem!r}: predicted class {index} is no class of '{self._dataset_name}', which has "
                f"{len(self._label_ids)}"
            )
        return int(self._label_ids[index])

    def _save(self, stem: str, masks: torch.Tensor, classes: list[int], scores: list[float]) -> None:
        folder = os.path.join(self._save_dir, "instance")
        os.makedirs(os.path.join(folder, "masks"), exist_ok=True)
        lines = []
        for number, (mask, label_id, score) in enumerate(zip(masks, classes, scores)):
            name = f"masks/{stem}_{number}.png"
            binary = (mask if mask.dtype == torch.bool else mask > 0.5).cpu().numpy()
            save_png(os.path.join(folder, name), binary.astype(np.uint8) * 255)
            lines.append(f"{name} {label_id} {score}\n")
        save_text(os.path.join(folder, f"{stem}_pred.txt"), "".join(lines))

    def evaluate(self) -> OrderedDict:
        """{"segm": {"AP", "AP50", "AP-<class>", "AP50-<class>": percent}}; {} on other processes.

        Raises:
            ValueError: not every image of the ground truth was processed.
        """
        matches = self._gathered()
        if matches is None:
            return OrderedDict()
        scripts, arguments = _instance_scripts()
        with np.errstate(invalid="ignore", divide="ignore"):
            values = scripts.evaluateMatches(matches, arguments)  # (distances, classes, overlaps)
        overlaps = values[np.argmax(arguments.distanceThs)]
        half = int(np.argmin(abs(arguments.overlaps - 0.5)))
        result = {"AP": _mean(overlaps), "AP50": _mean(overlaps[:, half])}
        for row, name in zip(overlaps, arguments.instLabels):
            result[f"AP-{name}"], result[f"AP50-{name}"] = 100 * float(np.average(row)), 100 * float(row[half])
        return OrderedDict(segm=result)


class CityscapesSemanticEvaluator(_Evaluator):
    """Cityscapes' IoU of classes and categories, and iIoU, which weighs instances alike; in percent, "sem_seg".

    With `save_predictions` writes `semantic/CITY_..._pred.png` with Cityscapes' label ids.
    """

    _suffix = "_gtFine_labelIds.png"

    def _measure(self, stem: str, output: dict) -> tuple:
        scripts, arguments = _pixel_scripts()
        predicted = self._label_map(model_output(output, "sem_seg", self), stem)
        with Image.open(self._truth[stem]) as picture:
            self._check_size(stem, predicted.shape, (picture.height, picture.width))
        confusion, statistics = scripts.generateMatrix(arguments), scripts.generateInstanceStats(arguments)
        scripts.evaluatePair(_as_file(predicted), self._truth[stem], confusion, statistics, {}, arguments)
        if self._save_dir:
            os.makedirs(os.path.join(self._save_dir, "semantic"), exist_ok=True)
            save_png(os.path.join(self._save_dir, "semantic", f"{stem}_pred.png"), predicted)
        used = np.flatnonzero(confusion)
        return used, confusion.reshape(-1)[used], statistics

    def _label_map(self, output: torch.Tensor, stem: str) -> np.ndarray:
        """(H, W) uint8 label ids of Cityscapes."""
        classes = output.argmax(dim=0) if output.dim() == 3 else output
        if (
            classes.is_floating_point()
            or classes.dim() != 2
            or (output.dim() == 3 and output.shape[0] != len(self._label_ids))
        ):
            raise ValueError(
                f"image {stem!r}: 'sem_seg' must be ({len(self._label_ids)}, H, W) class scores or an (H, W) map of "
                f"class indices, got {tuple(output.shape)} {output.dtype}"
            )
        classes = classes.cpu().numpy()
        if classes.min() < 0 or classes.max() >= len(self._label_ids):
            raise ValueError(f"image {stem!r}: class indices must be below {len(self._label_ids)}, got {classes.max()}")
        return self._label_ids[classes]

    def evaluate(self) -> OrderedDict:
        """{"sem_seg": {"mIoU", "iIoU", "IoU_sup", "iIoU_sup" and per class "IoU-<class>", "iIoU-<class>"}}.

        `mIoU` is the script's "IoU"; `_sup` are the categories (flat, nature, ...). {} on other processes.

        Raises:
            ValueError: not every image of the ground truth was processed.
        """
        records = self._gathered()
        if records is None:
            return OrderedDict()
        scripts, arguments = _pixel_scripts()
        confusion, statistics = scripts.generateMatrix(arguments), scripts.generateInstanceStats(arguments)
        for used, counts, found in records.values():
            confusion.reshape(-1)[used] += counts
            _add(statistics, found)
        return OrderedDict(sem_seg=self._scores(scripts, arguments, confusion, statistics))

    def _scores(self, scripts: ModuleType, arguments, confusion: np.ndarray, statistics: dict) -> dict[str, float]:
        ids = {name: int(label) for name, label in zip(self._names, self._label_ids)}
        iou = {n: scripts.getIouScoreForLabel(i, confusion, arguments) for n, i in ids.items()}
        instance_iou = {
            n: scripts.getInstanceIouScoreForLabel(i, confusion, statistics, arguments) for n, i in ids.items()
        }
        groups = list(scripts.category2labels)
        group_iou = {g: scripts.getIouScoreForCategory(g, confusion, arguments) for g in groups}
        group_instance_iou = {
            g: scripts.getInstanceIouScoreForCategory(g, confusion, statistics, arguments) for g in groups
        }
        average = scripts.getScoreAverage
        result = {
            "mIoU": 100 * average(iou, arguments),
            "iIoU": 100 * average(instance_iou, arguments),
            "IoU_sup": 100 * average(group_iou, arguments),
            "iIoU_sup": 100 * average(group_instance_iou, arguments),
        }
        result |= {f"IoU-{name}": 100 * value for name, value in iou.items()}
        result |= {f"iIoU-{name}": 100 * v for name, v in instance_iou.items() if not np.isnan(v)}
        return {name: float(value) for name, value in result.items()}


class _Numpy:
    """NumPy with `in1d`, which NumPy 2.4 dropped and cityscapesscripts 2.3 still calls."""

    in1d = staticmethod(np.isin)

    def __getattr__(self, name: str):
        return getattr(np, name)


def _scripts(name: str) -> tuple[ModuleType, object]:
    module = importlib.import_module(f"cityscapesscripts.evaluation.{name}")
    if not hasattr(module.np, "in1d"):
        module.np = _Numpy()
    arguments = copy.copy(module.args)
    arguments.quiet = True
    return module, arguments


def _instance_scripts() -> tuple[ModuleType, object]:
    module, arguments = _scripts("evalInstanceLevelSemanticLabeling")
    module.setInstanceLabels(arguments)
    return module, arguments


def _pixel_scripts() -> tuple[ModuleType, object]:
    module, arguments = _scripts("evalPixelLevelSemanticLabeling")
    arguments.evalInstLevelScore, arguments.evalPixelAccuracy = True, False
    return module, arguments


def _as_file(array: np.ndarray) -> io.BytesIO:
    """A picture in memory, for functions that open files."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, format="PPM")
    return file


def _without_files(by_class: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """Matches without the pictures that they came from, so that they can be kept and sent."""
    for instances in by_class.values():
        for instance in instances:
            instance.pop("imgName", None)
            for match in instance.get("matchedPred", ()):
                match.pop("imgName", None)
    return by_class


def _add(total: dict, part: dict) -> None:
    """Add the numbers of nested dicts; lists (of label ids) stay."""
    for key, value in part.items():
        if isinstance(value, dict):
            _add(total[key], value)
        elif not isinstance(value, list):
            total[key] += value


def _mean(values: np.ndarray) -> float:
    """Mean in percent over the classes that occur; NaN if none does."""
    return float("nan") if np.isnan(values).all() else 100 * float(np.nanmean(values))

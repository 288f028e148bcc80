"""Where a model errs on a data set: each class, classes taken for one another, and the worst images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from segcore.data.layers import Layer, read_layers
from segcore.evaluation.pairs import count_table, pair_counts

from ..tasks import INSTANCE, PANOPTIC, SEMANTIC


@dataclass
class ErrorReport:
    """What `find_errors` found.

    Attributes:
        names: of the classes.
        confusion: (K + 1, K + 1) int64 pixels, true class by predicted class; the last is void.  All zero for
            labels that do not say the class of every pixel.
        found, missed: (K,) int64, true segments or objects with and without a prediction of their class that
            overlaps them by more than half (intersection over union).
        images: (score, file name), the worst first.
    """

    names: Sequence[str]
    confusion: np.ndarray
    found: np.ndarray
    missed: np.ndarray
    images: list[tuple[float, str]] = field(default_factory=list)

    def class_rows(self) -> list[list]:
        """For each class: name, pixel IoU, recall and precision (percent), segments found and in all."""
        correct = np.diag(self.confusion)[:-1]
        true, predicted = self.confusion[:-1].sum(1), self.confusion[:-1, :-1].sum(0)
        rows = []
        for i, name in enumerate(self.names):
            wholes = (true[i] + predicted[i] - correct[i], true[i], predicted[i])
            shares = [100 * correct[i] / whole if whole else float("nan") for whole in wholes]
            rows.append([name, *shares, int(self.found[i]), int(self.found[i] + self.missed[i])])
        return rows

    def confused_rows(self, count: int = 15) -> list[list]:
        """The pairs of classes that cost most pixels: true class, predicted class, percent of the true class."""
        wrong = self.confusion[:-1].copy()
        np.fill_diagonal(wrong, 0)
        names = [*self.names, "nothing"]
        rows = []
        for place in np.argsort(-wrong, axis=None, kind="stable")[:count]:
            true, predicted = np.unravel_index(place, wrong.shape)
            if wrong[true, predicted]:
                share = 100 * wrong[true, predicted] / self.confusion[true].sum()
                rows.append([names[true], names[predicted], share, int(wrong[true, predicted])])
        return rows


def find_errors(
    model: Callable[[list[dict]], list[dict]], inputs: Iterable[dict], names: Sequence[str], tasks: Sequence[str]
) -> ErrorReport:
    """Run a model over images and compare each result with its label.

    An image's score: with panoptic labels its panoptic quality over the classes that it shows; with semantic
    labels the mean IoU of these; with instances the part of its objects that were found.

    Args:
        model: as in evaluation, with results in the classes of `names`.
        inputs: test inputs with the label's fields of the dataset dict.
        names: of the classes of the data set.
        tasks: what its labels measure; the first of panoptic, semantic and instance counts for the score.
    """
    count = len(names)
    report = ErrorReport(
        names, np.zeros((count + 1, count + 1), np.int64), np.zeros(count, np.int64), np.zeros(count, np.int64)
    )
    task = next(t for t in (PANOPTIC, SEMANTIC, INSTANCE) if t in tasks)
    asked = (task, SEMANTIC) if task == PANOPTIC else (task,)
    for x in inputs:
        with torch.inference_mode():
            (output,) = model([{**x, "task": asked}])
        layers = read_layers(x, (x["height"], x["width"]))
        score = _count_image(report, output, layers, task)
        report.images.append((score, x["file_name"]))
    report.images.sort(key=lambda item: item[0])
    return report


def _count_image(report: ErrorReport, output: dict, layers: list[Layer], task: str) -> float:
    """Add one image to the report; returns its score."""
    void = len(report.names)
    if "sem_seg" in output:
        truth = _class_map(layers[0], void)
        predicted = output["sem_seg"].argmax(0).cpu().numpy()
        rows, columns, pixels = pair_counts(truth, predicted)
        table = count_table(rows, columns, pixels, report.confusion.shape)
        report.confusion += table
    if task == SEMANTIC:
        return _mean_iou(table)
    truths = true_segments(layers)
    predictions = predicted_segments(output)
    matched = _match(truths, predictions)
    for category, hit in matched:
        (report.found if hit else report.missed)[category] += 1
    hits = [iou for _, iou in matched if iou]
    if task == INSTANCE:
        return len(hits) / len(matched) if matched else 1.0
    extra = len(predictions) - len(hits)
    whole = len(hits) + 0.5 * (len(matched) - len(hits) + extra)
    return sum(hits) / whole if whole else 1.0


def _class_map(layer: Layer, void: int) -> np.ndarray:
    """(H, W) class indices, `void` where nothing is labelled; crowds count as their class, as in mIoU."""
    classes = [void, *(s["category_id"] for s in layer.segments)]
    return np.array(classes, np.int64)[layer.indices]


def _mean_iou(table: np.ndarray) -> float:
    """Over the classes that the image shows."""
    labelled = table[:-1]
    correct, true, predicted = np.diag(table)[:-1], labelled.sum(1), labelled[:, :-1].sum(0)
    shown = true > 0
    return float((correct[shown] / (true + predicted - correct)[shown]).mean()) if shown.any() else 1.0


def true_segments(layers: list[Layer]) -> list[tuple[int, np.ndarray]]:
    """(class index, mask) of each true segment that has a class and a pixel and is no crowd."""
    found = []
    for layer in layers:
        areas = np.bincount(layer.indices.ravel(), minlength=len(layer.segments) + 1)
        for number, segment in enumerate(layer.segments, start=1):
            if areas[number] and not segment["iscrowd"] and segment["category_id"] >= 0:
                found.append((segment["category_id"], layer.indices == number))
    return found


def predicted_segments(output: dict) -> list[tuple[int, np.ndarray]]:
    """(class index, mask) of each predicted segment, each instance with a score of at least one half, or each
    class of a semantic result."""
    if "panoptic_seg" in output:
        ids, segments = output["panoptic_seg"]
        ids = ids.cpu().numpy()
        return [(segment["category_id"], ids == segment["id"]) for segment in segments]
    if "sem_seg" in output:
        labels = output["sem_seg"].argmax(0).cpu().numpy()
        return [(category, labels == category) for category in np.unique(labels).tolist()]
    kept = output["instances"]
    kept = kept[kept.scores >= 0.5].to("cpu")
    return list(zip(kept.pred_classes.tolist(), kept.pred_masks.numpy()))


def _match(
    truths: list[tuple[int, np.ndarray]], predictions: list[tuple[int, np.ndarray]]
) -> list[tuple[int, float]]:
    """For each true segment its class, and its IoU with the prediction that finds it, or 0."""
    free = list(range(len(predictions)))
    matched = []
    for category, mask in truths:
        best, best_iou = None, 0.5
        for number in free:
            if predictions[number][0] != category:
                continue
            other = predictions[number][1]
            common = np.count_nonzero(mask & other)
            iou = common / (np.count_nonzero(mask) + np.count_nonzero(other) - common)
            if iou > best_iou:
                best, best_iou = number, iou
        if best is not None:
            free.remove(best)
        matched.append((category, best_iou if best is not None else 0.0))
    return matched

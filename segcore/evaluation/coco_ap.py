"""COCO's average precision of masks, image by image.

COCO's evaluator holds every mask of the data set until the end. Here an image is matched when it is seen, and
what is kept of it is a score and 80 bits per prediction; adding images up gives COCO's numbers to the last
digit, because the rules and the order of the operations are COCO's:

1. Predictions of a category are taken by falling score, the first `max_detections` of an image.
2. For each of ten IoU thresholds and four ranges of area, a prediction takes the free ground truth of its
   category that it overlaps most, at least by the threshold; crowds, and ground truth outside of the range,
   only if nothing else will do, and then the prediction counts neither for nor against. Crowds stay free.
3. A prediction that takes nothing and is outside of the range of area does not count either.
4. Precision at 101 recalls, where precision is the best of any higher recall; AP is its mean over thresholds,
   recalls and the categories that occur in the ground truth.

Letters: D predictions, G ground truths of one image and category, A = 4 ranges of area, T = 10 thresholds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pycocotools.mask as mask_api

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")

_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0.0, 1.0, 101)
_AREAS = np.array([(0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10)])  # square pixels: all, s, m, l


@dataclass(frozen=True)
class Matches:
    """One image and category.

    Attributes:
        scores: (D,) float64, falling.
        taken: (A, T, D) bool, packed into bytes along the last axis: took a ground truth.
        ignored: the same: counts neither for nor against.
        expected: (A,) ground truths to find.
    """

    scores: np.ndarray
    taken: np.ndarray
    ignored: np.ndarray
    expected: np.ndarray


def match_image(truths: Sequence[dict], predictions: Sequence[dict], max_detections: int = 100) -> dict[int, Matches]:
    """Rules 1 to 3 for one image.

    Args:
        truths: dicts with category_id, segmentation (RLE), area and iscrowd.
        predictions: dicts with category_id, segmentation (RLE) and score.
        max_detections: predictions of a category that count.

    Returns:
        Category id -> Matches, of the categories that the image has on either side.
    """
    of_category: dict[int, tuple[list, list]] = defaultdict(lambda: ([], []))
    for side, entries in enumerate((truths, predictions)):
        for entry in entries:
            of_category[entry["category_id"]][side].append(entry)
    return {category: _match_category(gt, found, max_detections) for category, (gt, found) in of_category.items()}


def _match_category(truths: list[dict], predictions: list[dict], max_detections: int) -> Matches:
    order = np.argsort([-p["score"] for p in predictions], kind="mergesort")[:max_detections]
    predictions = [predictions[k] for k in order]
    crowd = np.array([bool(t["iscrowd"]) for t in truths], dtype=bool)
    gt_area = np.array([t["area"] for t in truths], dtype=np.float64)
    ignore = crowd | _outside(gt_area)  # (A, G)
    shape = (len(_AREAS), len(_THRESHOLDS), len(predictions))
    taken, ignored = np.zeros(shape, bool), np.zeros(shape, bool)
    if predictions:
        rles = [p["segmentation"] for p in predictions]
        if truths:
            iou = mask_api.iou(rles, [t["segmentation"] for t in truths], crowd.astype(np.uint8).tolist())
            _take(np.asarray(iou).reshape(len(rles), len(truths)), crowd, ignore, taken, ignored)
        area = np.asarray(mask_api.area(rles), dtype=np.float64)
        ignored |= ~taken & _outside(area)[:, None, :]
    return Matches(
        scores=np.array([p["score"] for p in predictions], dtype=np.float64),
        taken=np.packbits(taken, axis=-1),
        ignored=np.packbits(ignored, axis=-1),
        expected=np.count_nonzero(~ignore, axis=1),
    )


def _outside(area: np.ndarray) -> np.ndarray:
    """(A, N) bool: whether each of N areas is outside of each range."""
    return (area[None] < _AREAS[:, :1]) | (area[None] > _AREAS[:, 1:])


def _take(iou: np.ndarray, crowd: np.ndarray, ignore: np.ndarray, taken: np.ndarray, ignored: np.ndarray) -> None:
    """Rule 2: fill `taken` and `ignored`, (A, T, D), from `iou` (D, G), `crowd` (G,), `ignore` (A, G)."""
    thresholds = np.minimum(_THRESHOLDS, 1 - 1e-10)[:, None]
    used = np.zeros((len(_AREAS), len(_THRESHOLDS), iou.shape[1]), bool)
    areas, levels = np.indices(used.shape[:2])
    for d in np.flatnonzero((iou >= thresholds[0]).any(axis=1)):
        reachable = (iou[d] >= thresholds) & (~used | crowd)  # (A, T, G)
        first, second = reachable & ~ignore[:, None], reachable & ignore[:, None]
        best = np.where(first.any(axis=-1), _last_best(iou[d], first), _last_best(iou[d], second))
        hit = reachable.any(axis=-1)
        taken[:, :, d] = hit
        ignored[:, :, d] = hit & ignore[areas, best]
        used[areas[hit], levels[hit], best[hit]] = True


def _last_best(iou: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """(A, T) place of the largest IoU among the allowed ones; of equal ones the last, as COCO has it."""
    values = np.where(allowed, iou, -1.0)[..., ::-1]
    return allowed.shape[-1] - 1 - values.argmax(axis=-1)


def average_precision(images: Iterable[dict[int, Matches]], categories: Sequence[dict]) -> dict[str, float]:
    """Rule 4: COCO's numbers in percent, `METRICS` and "AP-<category name>"; NaN without ground truth.

    Args:
        images: of `match_image`, in a fixed order: it decides among predictions of equal score.
        categories: dicts with id and name, of every category of the ground truth.
    """
    of_category: dict[int, list[Matches]] = defaultdict(list)
    for image in images:
        for category, matches in image.items():
            of_category[category].append(matches)
    categories = sorted(categories, key=lambda category: category["id"])
    # (T, recalls, categories, A); -1 where there is nothing to find.
    precision = np.stack([_precision(of_category[c["id"]]) for c in categories], axis=2)
    half, three_quarters = 0, 5
    result = {
        "AP": _mean(precision[..., 0]),
        "AP50": _mean(precision[half, ..., 0]),
        "AP75": _mean(precision[three_quarters, ..., 0]),
        "APs": _mean(precision[..., 1]),
        "APm": _mean(precision[..., 2]),
        "APl": _mean(precision[..., 3]),
    }
    for number, category in enumerate(categories):
        result[f"AP-{category['name']}"] = _mean(precision[:, :, number, 0])
    return result


def _precision(images: list[Matches]) -> np.ndarray:
    """(T, recalls, A) precision of one category."""
    result = np.full((len(_THRESHOLDS), len(_RECALLS), len(_AREAS)), -1.0)
    expected = sum((image.expected for image in images), np.zeros(len(_AREAS), np.int64))
    if not expected.any():
        return result
    scores = np.concatenate([image.scores for image in images])
    order = np.argsort(-scores, kind="mergesort")
    taken, ignored = (
        np.concatenate([_unpacked(getattr(i, key), len(i.scores)) for i in images], axis=-1)[..., order]
        for key in ("taken", "ignored")
    )
    true = np.cumsum(taken & ~ignored, axis=-1).astype(np.float64)  # (A, T, D)
    false = np.cumsum(~taken & ~ignored, axis=-1).astype(np.float64)
    for area in np.flatnonzero(expected):
        recall = true[area] / expected[area]
        precise = true[area] / (false[area] + true[area] + np.spacing(1))
        precise = np.maximum.accumulate(precise[:, ::-1], axis=1)[:, ::-1]
        for t in range(len(_THRESHOLDS)):
            place = np.searchsorted(recall[t], _RECALLS, side="left")
            reached = place < len(order)
            result[t, :, area] = np.where(reached, np.append(precise[t], 0.0)[place], 0.0)
    return result


def _unpacked(bits: np.ndarray, count: int) -> np.ndarray:
    return np.unpackbits(bits, axis=-1, count=count).astype(bool)


def _mean(precision: np.ndarray) -> float:
    values = precision[precision > -1]
    return 100 * float(np.mean(values)) if values.size else float("nan")

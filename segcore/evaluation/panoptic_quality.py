"""Panoptic quality (Kirillov et al., arXiv:1801.00868) with COCO's rules for void and crowd.

For one image, with id 0 = void in both maps and |.| = number of pixels:

1. IoU(p, g) = |p and g| / (|p| + |g| - |p and g| - |p and void|): void ground truth neither helps nor harms.
   |g| is the `area` that the JSON lists, as in COCO's own evaluator, if it is more than the PNG shows: ADE20K's
   stuff keeps the area that it has before things are laid over it.
2. p and g match when their categories agree, g is no crowd and IoU > 0.5. Segments do not overlap, so a
   segment matches at most once.
3. A ground-truth segment left over is a false negative, unless it is a crowd. One that the JSON lists and the
   PNG does not show has no pixels and so is a false negative.
4. A predicted segment left over is a false positive, unless more than half of it lies on void or on a crowd
   of its category. When an image has several crowds of one category, the one listed last counts: COCO's own
   evaluator does so, and our numbers are meant to be comparable with its.

Per category, PQ = sum of matched IoU / (TP + FP/2 + FN/2) = SQ * RQ; a group of categories (all, things,
stuff) averages those that occur in the ground truth or the prediction of any image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from .pairs import pair_counts

VOID = 0

# A matched IoU is a double in (0.5, 1], hence a whole multiple of 2**-53. Summed as Python integers in this
# unit the total is exact, so that it does not depend on the order of images nor on how they were spread over
# processes.
_IOU_UNIT = 2**53


class PanopticStat:
    """True positives, false positives, false negatives and summed IoU per category, over any number of
    images.

    Add images with `merge` (or `+=`); any order and any grouping gives the same numbers to the last bit.

    Args:
        categories: COCO category dicts, [{"id", "isthing", ...}], or a mapping id -> such a dict.

    Attributes:
        is_thing: category id -> bool.
        counts: category id -> [TP, FP, FN, summed IoU in units of 2**-53], for categories that occurred.
    """

    def __init__(self, categories: Iterable[Mapping] | Mapping[int, Mapping]):
        self.is_thing = _category_table(categories)
        self.counts: dict[int, list[int]] = {}

    def merge(self, other: PanopticStat) -> PanopticStat:
        """Add the images of `other`; returns self. Raises ValueError if the categories differ."""
        if other.is_thing is not self.is_thing and other.is_thing != self.is_thing:
            raise ValueError(
                f"cannot add panoptic statistics over different categories: got {sorted(other.is_thing)}, "
                f"expected {sorted(self.is_thing)}"
            )
        for category, (tp, fp, fn, iou) in other.counts.items():
            counts = self._of(category)
            counts[0] += tp
            counts[1] += fp
            counts[2] += fn
            counts[3] += iou
        return self

    __iadd__ = merge

    def __add__(self, other: PanopticStat) -> PanopticStat:
        return PanopticStat.over(self.is_thing).merge(self).merge(other)

    @classmethod
    def over(cls, is_thing: dict[int, bool]) -> PanopticStat:
        """An empty statistic that shares an existing `is_thing` table (thousands of images, one table)."""
        stat = cls.__new__(cls)
        stat.is_thing, stat.counts = is_thing, {}
        return stat

    def add_match(self, category: int, iou: float) -> None:
        """Count a true positive; its `iou` is in (0.5, 1]."""
        counts = self._of(category)
        counts[0] += 1
        counts[3] += int(iou * _IOU_UNIT)

    def add_false_positive(self, category: int) -> None:
        """Count a predicted segment without a match."""
        self._of(category)[1] += 1

    def add_false_negative(self, category: int) -> None:
        """Count a true segment without a match."""
        self._of(category)[2] += 1

    def _of(self, category: int) -> list[int]:
        return self.counts.setdefault(category, [0, 0, 0, 0])

    def per_category(self) -> dict[int, dict[str, float]]:
        """Category id -> {"pq", "sq", "rq" in [0, 1], "tp", "fp", "fn"}, for the categories that occurred."""
        return {category: _qualities(*counts) for category, counts in sorted(self.counts.items())}

    def result(self) -> dict[str, dict[str, float]]:
        """{"All", "Things", "Stuff"} -> {"pq", "sq", "rq" in [0, 1], "n": categories averaged}.

        A group in which no category occurred has nothing to average: NaN, with n = 0.
        """
        rows = self.per_category()
        groups = {"All": (True, False), "Things": (True,), "Stuff": (False,)}
        return {
            name: _mean([row for category, row in rows.items() if self.is_thing[category] in kinds])
            for name, kinds in groups.items()
        }


def panoptic_quality(
    pred_ids: np.ndarray,
    pred_segments: Sequence[Mapping],
    gt_ids: np.ndarray,
    gt_segments: Sequence[Mapping],
    categories: Iterable[Mapping] | Mapping[int, Mapping],
) -> PanopticStat:
    """Match the segments of one image and count what panoptic quality needs.

    Args:
        pred_ids, gt_ids: (H, W) segment ids, any integer dtype, 0 = void; arrays or CPU tensors.
        pred_segments: [{"id", "category_id"}], category ids as in `categories`.
        gt_segments: [{"id", "category_id", "iscrowd" (optional), "area" (optional)}].
        categories: COCO category dicts with "id" and "isthing", or a mapping id -> such a dict.

    Returns:
        The statistic of this image; add up those of several with `+=` and read it with `.result()`.

    Raises:
        ValueError: the maps differ in size; a segment has id 0, an id twice or an unknown category; a map
            shows an id that its segments do not list; a predicted segment is listed but has no pixel.
        TypeError: a map is not of integers.

    Source: arXiv:1801.00868, eq. 1; the rules in full are in the module's docstring.
    """
    return match_segments(pred_ids, pred_segments, gt_ids, gt_segments, PanopticStat(categories))


def match_segments(pred_ids, pred_segments, gt_ids, gt_segments, stat: PanopticStat) -> PanopticStat:
    """Like `panoptic_quality`, counting into `stat` (which is returned); on an error `stat` is untouched."""
    pred = _Segments("prediction", pred_ids, pred_segments, stat.is_thing)
    gt = _Segments("ground truth", gt_ids, gt_segments, stat.is_thing)
    if pred.map.shape != gt.map.shape:
        raise ValueError(
            f"the prediction is {_size(pred.map)} but the ground truth {_size(gt.map)} (height x width); "
            "resize the prediction to the image's original size"
        )
    _count(stat, pred, gt, *_overlaps(pred, gt))
    return stat


class _Segments:
    """One side of the comparison: the id map with its segments as arrays."""

    def __init__(self, side: str, ids, segments: Sequence[Mapping], is_thing: Mapping[int, bool]):
        self.side = side
        self.map = np.asarray(ids)
        if self.map.dtype.kind not in "iu":
            raise TypeError(f"the {side}'s segment ids must be integers, got an array of {self.map.dtype}")
        if self.map.ndim != 2:
            raise ValueError(f"the {side}'s segment ids must be a (height, width) map, got {self.map.shape}")
        self.category = {int(s["id"]): int(s["category_id"]) for s in segments}
        self.listed = segments
        self.pixels = {**dict.fromkeys(self.category, 0), VOID: 0}  # `_overlaps` counts them
        if len(self.category) != len(segments) or VOID in self.category:
            raise ValueError(
                f"the {side}'s segments must have distinct ids other than 0 (void), got {[s['id'] for s in segments]}"
            )
        unknown = set(self.category.values()).difference(is_thing)
        if unknown:
            raise ValueError(
                f"the {side}'s segments have categories {sorted(unknown)}, which are not among the data set's: "
                f"{sorted(is_thing)}"
            )

    def refuse_unlisted(self, labels: Iterable[int]) -> None:
        """Raise if the map shows an id that its segments do not list."""
        unknown = sorted(set(labels) - self.category.keys() - {VOID})
        if unknown:
            raise ValueError(
                f"the {self.side}'s map shows segment ids {unknown[:10]} that its segments do not "
                f"list; listed are {list(self.category)[:50]} (0 is void)"
            )


Overlaps = list[tuple[int, int, int]]  # predicted id, true id, pixels in common


def _overlaps(pred: _Segments, gt: _Segments) -> tuple[dict[int, int], Overlaps]:
    """Each predicted segment's pixels on void, if any, and the overlaps of segments of one category.

    Counts the pixels of the segments of both sides.
    """
    pred_labels, gt_labels, pixels = (values.tolist() for values in pair_counts(pred.map, gt.map))
    pred_pixels, gt_pixels, pred_category, gt_category = pred.pixels, gt.pixels, pred.category, gt.category
    on_void, alike = {}, []
    try:
        for p, g, common in zip(pred_labels, gt_labels, pixels):
            pred_pixels[p] += common
            gt_pixels[g] += common
            if g == VOID:
                on_void[p] = common
            elif p != VOID and pred_category[p] == gt_category[g]:
                alike.append((p, g, common))
    except KeyError:
        pred.refuse_unlisted(pred_labels)
        gt.refuse_unlisted(gt_labels)
        raise
    absent = [p for p in pred_category if not pred_pixels[p]]
    if absent:
        raise ValueError(
            f"the prediction lists segments {absent} that have no pixel in its map; leave them out of its segments"
        )
    return on_void, alike


def _count(stat: PanopticStat, pred: _Segments, gt: _Segments, on_void: dict[int, int], alike: Overlaps) -> None:
    """Rules 1 to 4 of the module's docstring, on what `_overlaps` returns."""
    area, crowds, crowd_of = gt.pixels.copy(), set(), {}
    for (g, category), segment in zip(gt.category.items(), gt.listed):
        if listed := segment.get("area"):
            area[g] = max(area[g], round(listed))
        if segment.get("iscrowd", 0):
            crowds.add(g)
            crowd_of[category] = g  # of several the one listed last, rule 4
    matched_pred, matched_gt, on_crowd = set(), set(), {}
    for p, g, common in alike:
        category = gt.category[g]
        if g in crowds:
            if g == crowd_of[category]:
                on_crowd[p] = common
            continue
        union = pred.pixels[p] - on_void.get(p, 0) + area[g] - common
        if 2 * common > union:  # IoU > 1/2 without rounding
            stat.add_match(category, common / union)
            matched_pred.add(p)
            matched_gt.add(g)
    for g, category in gt.category.items():
        if g not in matched_gt and g not in crowds:
            stat.add_false_negative(category)
    for p, category in pred.category.items():
        if p not in matched_pred and 2 * (on_void.get(p, 0) + on_crowd.get(p, 0)) <= pred.pixels[p]:
            stat.add_false_positive(category)


def _category_table(categories) -> dict[int, bool]:
    if isinstance(categories, Mapping):
        return {int(key): bool(value["isthing"]) for key, value in categories.items()}
    return {int(category["id"]): bool(category["isthing"]) for category in categories}


def _qualities(tp: int, fp: int, fn: int, iou_units: int) -> dict[str, float]:
    iou = iou_units / _IOU_UNIT  # Python rounds the quotient of integers once, correctly
    size = tp + fp / 2 + fn / 2
    return {"pq": iou / size, "sq": iou / tp if tp else 0.0, "rq": tp / size, "tp": tp, "fp": fp, "fn": fn}


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    n = len(rows)
    return {
        **{key: sum(row[key] for row in rows) / n if n else float("nan") for key in ("pq", "sq", "rq")},
        "n": n,
    }


def _size(array: np.ndarray) -> str:
    return f"{array.shape[0]}x{array.shape[1]}"

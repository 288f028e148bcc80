"""Panoptic quality against a literal reading of COCO's rules, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from segcore.evaluation import PanopticStat, panoptic_quality
from tests.segcore.evaluation.scenes import CATEGORIES, cells, ground_truth, prediction


def literal(pred_ids, pred_segments, gt_ids, gt_segments, totals):
    """COCO's rules as they are told, mask after mask; adds to {category: [iou, tp, fp, fn]}."""
    void = gt_ids == 0
    matched_gt, matched_pred = set(), set()
    for g in gt_segments:
        for p in pred_segments:
            if g.get("iscrowd") or g["category_id"] != p["category_id"]:
                continue
            gt_mask, pred_mask = gt_ids == g["id"], (pred_ids == p["id"]) & ~void
            union = (gt_mask | pred_mask).sum()
            iou = (gt_mask & pred_mask).sum() / union if union else 0.0
            if iou > 0.5:
                totals[g["category_id"]][0] += iou
                totals[g["category_id"]][1] += 1
                matched_gt.add(g["id"])
                matched_pred.add(p["id"])
    last_crowd = {}
    for g in gt_segments:
        if g.get("iscrowd"):
            last_crowd[g["category_id"]] = g["id"]
        elif g["id"] not in matched_gt:
            totals[g["category_id"]][3] += 1
    excused = 0
    for p in pred_segments:
        if p["id"] in matched_pred:
            continue
        pred_mask = pred_ids == p["id"]
        ignored = void | (gt_ids == last_crowd.get(p["category_id"], 0))
        if (pred_mask & ignored).sum() / pred_mask.sum() > 0.5:
            excused += 1
        else:
            totals[p["category_id"]][2] += 1
    return excused


def test_equals_a_literal_reading_of_the_rules():
    rng = np.random.default_rng(3)
    totals = {category["id"]: [0.0, 0, 0, 0] for category in CATEGORIES}
    stat, excused = PanopticStat(CATEGORIES), 0
    for _ in range(80):
        gt = ground_truth(rng)
        pred = prediction(rng, *gt)
        excused += literal(*pred, *gt, totals)
        stat += panoptic_quality(*pred, *gt, CATEGORIES)

    rows = stat.per_category()
    assert rows.keys() == totals.keys()
    for category, (iou, tp, fp, fn) in totals.items():
        assert (rows[category]["tp"], rows[category]["fp"], rows[category]["fn"]) == (tp, fp, fn)
        assert abs(rows[category]["sq"] - iou / tp) < 1e-9
        assert abs(rows[category]["pq"] - iou / (tp + fp / 2 + fn / 2)) < 1e-9
        assert min(tp, fp, fn) > 10  # the scenes exercise every outcome
    assert excused > 100

    result = stat.result()
    for group, kinds in {"All": (0, 1), "Things": (1,), "Stuff": (0,)}.items():
        chosen = [totals[c["id"]] for c in CATEGORIES if c["isthing"] in kinds]
        assert result[group]["n"] == len(chosen)
        assert abs(result[group]["pq"] - np.mean([i / (t + p / 2 + n / 2) for i, t, p, n in chosen])) < 1e-9
        assert abs(result[group]["rq"] - np.mean([t / (t + p / 2 + n / 2) for i, t, p, n in chosen])) < 1e-9
        assert abs(result[group]["sq"] - np.mean([i / t for i, t, p, n in chosen])) < 1e-9


def test_every_pixel_its_own_run_is_counted_right():
    rng = np.random.default_rng(0)
    pred_ids, gt_ids = rng.integers(0, 4, (40, 50)), rng.integers(0, 4, (40, 50))
    segments = [{"id": k, "category_id": 7} for k in (1, 2, 3)]
    totals = {7: [0.0, 0, 0, 0]}
    literal(pred_ids, segments, gt_ids, segments, totals)
    row = panoptic_quality(pred_ids, segments, gt_ids, segments, CATEGORIES).per_category()[7]
    assert [row["tp"], row["fp"], row["fn"]] == totals[7][1:] == [0, 3, 3]


def test_sums_do_not_depend_on_order_or_grouping():
    rng = np.random.default_rng(1)
    parts = []
    for _ in range(30):
        gt = ground_truth(rng)
        parts.append(panoptic_quality(*prediction(rng, *gt), *gt, CATEGORIES))
    forward = sum(parts, PanopticStat(CATEGORIES)).result()
    left, right = PanopticStat(CATEGORIES), PanopticStat(CATEGORIES)
    for k in rng.permutation(30):
        if k % 3:
            left += parts[k]
        else:
            right += parts[k]
    assert (right + left).result() == forward  # equal to the last bit, not nearly


def strip(*runs):
    """A one-row map: (id, length) after (id, length)."""
    return np.concatenate([np.full(length, label) for label, length in runs])[None]


def counts(pred_ids, pred_segments, gt_ids, gt_segments):
    def dicts(segments):
        return [dict(zip(("id", "category_id", "iscrowd"), s)) for s in segments]

    stat = panoptic_quality(pred_ids, dicts(pred_segments), gt_ids, dicts(gt_segments), CATEGORIES)
    return {c: (r["tp"], r["fp"], r["fn"], round(r["sq"], 12)) for c, r in stat.per_category().items()}


def test_hand_worked_cases():
    gt = strip((1, 10), (0, 10))
    # 8 of 10 pixels found: IoU 0.8. Void under the prediction does not count against it.
    assert counts(strip((5, 8), (0, 12)), [(5, 7)], gt, [(1, 7, 0)]) == {7: (1, 0, 0, 0.8)}
    assert counts(strip((0, 2), (5, 14), (0, 4)), [(5, 7)], gt, [(1, 7, 0)]) == {7: (1, 0, 0, 0.8)}
    # Exactly half is no match: one miss and one false alarm.
    assert counts(strip((5, 5), (0, 15)), [(5, 7)], gt, [(1, 7, 0)]) == {7: (0, 1, 1, 0.0)}
    # The right place, the wrong category: a false alarm there, a miss here.
    both = {7: (0, 0, 1, 0.0), 11: (0, 1, 0, 0.0)}
    assert counts(strip((5, 10), (0, 10)), [(5, 11)], gt, [(1, 7, 0)]) == both
    # Mostly on void: no false alarm. Exactly half on void: a false alarm.
    assert counts(strip((0, 6), (5, 10), (0, 4)), [(5, 11)], gt, [(1, 7, 0)]) == {7: (0, 0, 1, 0.0)}
    assert counts(strip((0, 5), (5, 10), (0, 5)), [(5, 11)], gt, [(1, 7, 0)])[11] == (0, 1, 0, 0.0)
    # A segment in the JSON that the PNG does not show is missed.
    assert counts(strip((5, 10), (0, 10)), [(5, 7)], gt, [(1, 7, 0), (9, 23, 0)])[23] == (0, 0, 1, 0.0)
    # Nothing at all on either side.
    assert counts(strip((0, 4)), [], strip((0, 4)), []) == {}


def test_crowds_excuse_their_category_only():
    gt, segments = strip((1, 10), (2, 10)), [(1, 7, 1), (2, 40, 0)]
    assert counts(strip((5, 10), (6, 10)), [(5, 7), (6, 40)], gt, segments) == {40: (1, 0, 0, 1.0)}
    assert counts(strip((5, 10), (6, 10)), [(5, 11), (6, 40)], gt, segments)[11] == (0, 1, 0, 0.0)
    # Half on the crowd and half off: not more than half.
    assert counts(strip((0, 5), (5, 10), (0, 5)), [(5, 7)], gt, segments)[7] == (0, 1, 0, 0.0)
    # Void and crowd add up.
    gt = strip((1, 4), (0, 3), (2, 5))
    assert counts(strip((5, 12)), [(5, 7)], gt, segments) == {40: (0, 0, 1, 0.0)}
    # Of two crowds of a category COCO's evaluator looks at the last.
    gt = strip((1, 10), (2, 10))
    assert counts(strip((5, 10), (0, 10)), [(5, 7)], gt, [(1, 7, 1), (2, 7, 1)]) == {7: (0, 1, 0, 0.0)}
    assert counts(strip((5, 10), (0, 10)), [(5, 7)], gt, [(2, 7, 1), (1, 7, 1)]) == {}


def test_averages_over_occurring_categories_and_nan_without_any():
    gt, pred = strip((1, 10), (2, 10)), strip((5, 8), (6, 12))
    stat = panoptic_quality(
        pred,
        [{"id": 5, "category_id": 7}, {"id": 6, "category_id": 11}],
        gt,
        [{"id": 1, "category_id": 7}, {"id": 2, "category_id": 11}],
        {category["id"]: category for category in CATEGORIES},
    )
    result = stat.result()
    assert result["Things"] == result["All"]
    assert result["All"]["n"] == 2
    assert result["All"]["pq"] == pytest.approx((8 / 10 + 10 / 12) / 2, abs=1e-12)
    assert result["Stuff"]["n"] == 0 and math.isnan(result["Stuff"]["pq"])


ONE = [{"id": 1, "category_id": 7}]


GOOD = (strip((1, 4)), ONE)


@pytest.mark.parametrize(
    ("pred", "gt", "error", "words"),
    [
        ((strip((9, 4)), ONE), GOOD, ValueError, r"prediction's map shows segment ids \[9\]"),
        (GOOD, (strip((9, 4)), ONE), ValueError, r"ground truth's map shows segment ids \[9\]"),
        ((strip((-1, 1), (1, 3)), ONE), GOOD, ValueError, r"segment ids \[-1\]"),
        ((strip((0, 4)), ONE), GOOD, ValueError, r"lists segments \[1\] that have no pixel"),
        ((strip((1, 5)), ONE), GOOD, ValueError, "1x5 but the ground truth 1x4"),
        ((strip((1, 4)), [{"id": 1, "category_id": 99}]), GOOD, ValueError, r"categories \[99\]"),
        (GOOD, (strip((1, 4)), [{"id": 1, "category_id": 8}]), ValueError, r"truth.*\[8\]"),
        ((strip((1, 4)), ONE * 2), GOOD, ValueError, "distinct ids"),
        ((strip((0, 4)), [{"id": 0, "category_id": 7}]), GOOD, ValueError, "other than 0"),
        ((strip((1, 4)) * 1.0, ONE), GOOD, TypeError, "must be integers"),
        ((strip((1, 4))[0], ONE), GOOD, ValueError, r"\(height, width\)"),
    ],
)
def test_wrong_input_is_named(pred, gt, error, words):
    with pytest.raises(error, match=words):
        panoptic_quality(*pred, *gt, CATEGORIES)


def test_statistics_over_other_categories_do_not_add():
    with pytest.raises(ValueError, match="different categories"):
        PanopticStat(CATEGORIES).merge(PanopticStat(CATEGORIES[:2]))


def test_the_scenes_have_what_the_rules_are_about():
    rng = np.random.default_rng(3)
    scenes = [ground_truth(rng) for _ in range(20)]
    assert any((ids == 0).any() for ids, _ in scenes)
    assert any(s["iscrowd"] for _, segments in scenes for s in segments)
    assert any(not (ids == s["id"]).any() for ids, segments in scenes for s in segments)
    assert max(ids.max() for ids, _ in scenes) > 2**23
    assert cells(rng, 5, 6, 3).shape == (5, 6)

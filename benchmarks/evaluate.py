#!/usr/bin/env python
"""How fast is panoptic quality? Ours against the usual ways to count it, on the same maps in one run.

* `unique`: COCO's reference algorithm, one np.unique over the predicted ids and one over the id pairs.
* `loop`: a mask of every predicted and of every true segment, and their overlap pair by pair.

The maps are in memory: decoding PNGs is left out of every time. All three must agree; the table
gives the median per image, and the last line is the same as JSON.

    python benchmarks/evaluate.py [--images 100] [--sizes 480x640 1024x2048] [--output FILE]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installing

from benchmarks.reporting import report
from segcore.evaluation import PanopticStat
from segcore.evaluation.panoptic_quality import match_segments
from segcore.ops import extension

CATEGORIES = [{"id": k, "isthing": int(k <= 80)} for k in range(1, 134)]
VOID, CELL = 0, 2**24
Image = tuple[np.ndarray, list[dict], np.ndarray, list[dict]]  # predicted ids, segments, true ids, segments


def random_image(rng: np.random.Generator, height: int, width: int, segments: int) -> Image:
    """A scene of wavy cells with void and crowds, and a prediction of it that is shifted and partly wrong."""
    cell = _cells(rng, height, width, segments)
    ids = rng.choice(CELL - 1, segments, replace=False) + 1  # COCO's ids lie anywhere in three bytes
    ids[0] = VOID
    categories = rng.integers(1, 134, segments)
    truth = [
        {"id": int(i), "category_id": int(c), "iscrowd": int(rng.random() < 0.1)}
        for i, c in zip(ids[1:], categories[1:])
    ]
    shifted = np.roll(cell, (3, 5), axis=(0, 1))
    extra = _cells(rng, height, width, 4) == 0
    predicted = np.where(extra & (shifted % 2 == 0), segments, shifted).astype(np.int32)
    guess = np.append(np.where(rng.random(segments) < 0.2, 1 + categories % 133, categories), 1)
    found = [{"id": k, "category_id": int(guess[k])} for k in np.unique(predicted).tolist() if k]
    return predicted, found, ids[cell].astype(np.int32), truth


def _cells(rng: np.random.Generator, height: int, width: int, count: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width].astype(np.float32)
    y, x = y + 6 * np.sin(x / 17), x + 6 * np.sin(y / 23)
    best, cell = np.full(y.shape, np.inf, np.float32), np.zeros(y.shape, np.int32)
    for k in range(count):
        distance = (y - rng.uniform(0, height)) ** 2 + (x - rng.uniform(0, width)) ** 2
        closer = distance < best
        best[closer], cell[closer] = distance[closer], k
    return cell


Totals = dict[int, list]  # category -> [summed IoU, true positives, false positives, false negatives]


def by_unique(image: Image, totals: Totals) -> None:
    """Areas from np.unique over the prediction, overlaps from np.unique over 64-bit id pairs."""
    predicted, found, true, truth = image
    area = dict(zip(*(a.tolist() for a in np.unique(predicted, return_counts=True))))
    pairs, counts = np.unique(true.astype(np.uint64) * CELL + predicted.astype(np.uint64), return_counts=True)
    overlap = {(int(p) // CELL, int(p) % CELL): int(n) for p, n in zip(pairs, counts)}
    true_area: dict[int, int] = {}
    for (g, _), n in overlap.items():
        true_area[g] = true_area.get(g, 0) + n
    _apply_rules(found, truth, area, true_area, overlap, totals)


def by_loop(image: Image, totals: Totals) -> None:
    """Every overlap from two masks of full size, each mask made once."""
    predicted, found, true, truth = image
    masks = {p["id"]: predicted == p["id"] for p in found}
    true_masks = {VOID: true == VOID, **{g["id"]: true == g["id"] for g in truth}}
    area = {p: int(np.count_nonzero(mask)) for p, mask in masks.items()}
    true_area = {g: int(np.count_nonzero(mask)) for g, mask in true_masks.items()}
    overlap = {
        (g, p): int(np.count_nonzero(true_mask & mask))
        for g, true_mask in true_masks.items()
        for p, mask in masks.items()
    }
    _apply_rules(found, truth, area, true_area, overlap, totals)


def _apply_rules(found, truth, area, true_area, overlap, totals: Totals) -> None:
    """COCO's matching on overlap[true id, predicted id]."""
    predicted_category = {p["id"]: p["category_id"] for p in found}
    true_segment = {g["id"]: g for g in truth}
    crowd = {g["category_id"]: g["id"] for g in truth if g["iscrowd"]}
    hit_true, hit_predicted = set(), set()
    for (g, p), common in overlap.items():
        if g == VOID or p == VOID or not common:
            continue
        category = true_segment[g]["category_id"]
        if true_segment[g]["iscrowd"] or predicted_category[p] != category:
            continue
        iou = common / (area[p] + true_area[g] - common - overlap.get((VOID, p), 0))
        if iou > 0.5:
            totals[category][0] += iou
            totals[category][1] += 1
            hit_true.add(g)
            hit_predicted.add(p)
    for g in truth:
        if g["id"] not in hit_true and not g["iscrowd"]:
            totals[g["category_id"]][3] += 1
    for p, category in predicted_category.items():
        if p not in hit_predicted:
            excused = overlap.get((VOID, p), 0) + overlap.get((crowd.get(category, -1), p), 0)
            if excused / area[p] <= 0.5:
                totals[category][2] += 1


def mean_quality(totals: Totals) -> float:
    """PQ in percent from any method's totals."""
    rows = [(iou, tp + fp / 2 + fn / 2) for iou, tp, fp, fn in totals.values() if tp + fp + fn]
    return 100 * sum(iou / size for iou, size in rows) / len(rows)


def empty() -> Totals:
    return {category["id"]: [0.0, 0, 0, 0] for category in CATEGORIES}


def median_ms(work: Callable[[Image], object], images: list[Image]) -> float:
    times = []
    for image in images:
        start = time.perf_counter()
        work(image)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def measure(height: int, width: int, segments: int, count: int) -> dict:
    """Times per image and the PQ that each method finds; raises if they disagree."""
    rng = np.random.default_rng(0)
    images = [random_image(rng, height, width, segments) for _ in range(count)]
    stat, unique, loop = PanopticStat(CATEGORIES), empty(), empty()

    def ours(image: Image) -> None:  # as the evaluator does
        stat.merge(match_segments(*image, PanopticStat.over(stat.is_thing)))

    match_segments(*images[0], PanopticStat.over(stat.is_thing))  # first-call costs are nobody's speed
    by_unique(images[0], empty())
    ms = {
        "ours": median_ms(ours, images),
        "unique": median_ms(lambda image: by_unique(image, unique), images),
        "loop": median_ms(lambda image: by_loop(image, loop), images),
    }
    pq = {
        "ours": 100 * stat.result()["All"]["pq"],
        "unique": mean_quality(unique),
        "loop": mean_quality(loop),
    }
    if max(pq.values()) - min(pq.values()) > 1e-9:
        raise RuntimeError(f"the methods disagree: {pq}")
    return {"size": f"{height}x{width}", "segments": segments, "images": count, "ms": ms, "pq": pq["ours"]}


def _sorting_instructions() -> str:
    """What NumPy sorts with: np.unique is a sort, and several times as fast with AVX-512 as without."""
    found = np.show_config(mode="dicts").get("SIMD Extensions", {}).get("found", [])
    return ", ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100, help="images of 480x640; larger ones fewer")
    parser.add_argument("--sizes", nargs="+", default=["480x640", "1024x2048"], help="height x width")
    parser.add_argument("--output", type=Path, help="also write the JSON to this file")
    arguments = parser.parse_args()

    rows = []
    for size in arguments.sizes:
        height, width = map(int, size.split("x"))
        share = max(1.0, height * width / (480 * 640))
        rows.append(measure(height, width, int(20 * share**0.57), max(3, round(arguments.images / share))))
    table = [
        [
            r["size"],
            r["segments"],
            r["images"],
            *r["ms"].values(),
            r["ms"]["unique"] / r["ms"]["ours"],
            r["ms"]["loop"] / r["ms"]["ours"],
            r["pq"],
        ]
        for r in rows
    ]
    headers = ["size", "segments", "images", "ours ms", "unique ms", "loop ms", "x unique", "x loop", "PQ"]
    print(tabulate(table, headers, floatfmt=".2f"))
    header = {"benchmark": "panoptic_quality", "operators": extension.status(), "numpy": np.__version__}
    report({**header, "numpy_uses": _sorting_instructions(), "results": rows}, arguments.output)


if __name__ == "__main__":
    main()

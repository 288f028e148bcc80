"""Average precision image by image against pycocotools, with what is rare in pictures made common."""

from __future__ import annotations

import contextlib
import io
import pickle

import numpy as np
import pycocotools.mask as mask_api
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from segcore.evaluation.coco_ap import METRICS, average_precision, match_image

SIZE = (160, 200)
CATEGORIES = [{"id": i, "name": f"c{i}"} for i in (3, 7, 11)]


def box(rng: np.random.Generator) -> dict:
    """A rectangle on a coarse grid, so that many overlap equally, of COCO's three sizes."""
    height, width = rng.choice([16, 32, 64, 120], 2)
    top = 8 * int(rng.integers(0, (SIZE[0] - height) // 8 + 1))
    left = 8 * int(rng.integers(0, (SIZE[1] - width) // 8 + 1))
    mask = np.zeros(SIZE, np.uint8, order="F")
    mask[top : top + height, left : left + width] = 1
    return mask_api.encode(mask)


def scene(rng: np.random.Generator, image: int, truths: int, found: int) -> tuple[list[dict], list[dict]]:
    """Ground truth with crowds, and predictions of which many lie on it, with few different scores."""
    gt, predictions = [], []
    for _ in range(truths):
        rle = box(rng)
        gt.append(
            {
                "image_id": image,
                "category_id": int(rng.choice([3, 7])),  # nothing of category 11 is there
                "segmentation": rle,
                "area": float(mask_api.area(rle)),
                "iscrowd": int(rng.random() < 0.2),
                "bbox": [0, 0, 1, 1],
            }
        )
    for _ in range(found):
        on_truth = gt and rng.random() < 0.6
        source = gt[rng.integers(len(gt))] if on_truth else {"segmentation": box(rng), "category_id": 11}
        predictions.append(
            {
                "image_id": image,
                "category_id": source["category_id"],
                "segmentation": source["segmentation"] if rng.random() < 0.7 else box(rng),
                "score": float(rng.integers(1, 6) / 5),
            }
        )
    return gt, predictions


def official(gt: list[dict], predictions: list[dict], images: int, max_detections: int = 100) -> dict[str, float]:
    reference = COCO()
    reference.dataset = {
        "images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(images)],
        "annotations": [{"id": k, **a} for k, a in enumerate(gt, start=1)],
        "categories": CATEGORIES,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes([dict(p) for p in predictions]), "segm")
        evaluation.params.maxDets = [1, 2, max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"]  # (T, recalls, categories, areas, max detections)

    def mean(values: np.ndarray) -> float:
        values = values[values > -1]
        return 100 * float(np.mean(values)) if values.size else float("nan")

    parts = [np.s_[:, :, :, 0], np.s_[0, :, :, 0], np.s_[5, :, :, 0], *(np.s_[:, :, :, a] for a in (1, 2, 3))]
    return {metric: mean(precision[..., -1][part]) for metric, part in zip(METRICS, parts)} | {
        f"AP-{c['name']}": mean(precision[:, :, k, 0, -1]) for k, c in enumerate(CATEGORIES)
    }


@pytest.mark.parametrize("max_detections", [100, 3])
@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools_to_the_last_bit(seed, max_detections):
    rng = np.random.default_rng(seed)
    scenes = [scene(rng, image, *rng.integers(0, 12, 2)) for image in range(12)] + [([], []), scene(rng, 13, 0, 9)]
    matches = [match_image(gt, found, max_detections) for gt, found in scenes]
    ours = average_precision(matches, CATEGORIES)
    theirs = official([a for gt, _ in scenes for a in gt], [p for _, f in scenes for p in f], 14, max_detections)
    assert ours.keys() == theirs.keys()
    assert ours == pytest.approx(theirs, abs=0, rel=0, nan_ok=True)
    assert 0 < ours["AP"] < 100 and np.isnan(ours["AP-c11"])


def test_what_is_kept_of_an_image_does_not_grow_with_its_size():
    rng = np.random.default_rng(0)
    matches = match_image(*scene(rng, 0, 30, 100))
    bits = sum(m.taken.nbytes + m.ignored.nbytes for m in matches.values())
    assert bits <= 100 * 10 + 3 * 80 + 100  # 80 bits per prediction, rounded up for each of three categories
    assert len(pickle.dumps(matches)) < 6000


def test_nothing_at_all():
    assert match_image([], []) == {}
    result = average_precision([{}], CATEGORIES)
    assert list(result) == [*METRICS, "AP-c3", "AP-c7", "AP-c11"] and np.isnan(list(result.values())).all()

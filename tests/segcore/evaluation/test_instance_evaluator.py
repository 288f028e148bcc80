"""InstanceEvaluator against pycocotools, with the ground truth from either source."""

from __future__ import annotations

import contextlib
import io
import json
import math

import numpy as np
import pycocotools.mask as mask_api
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from segcore.evaluation import InstanceEvaluator
from segcore.evaluation.coco_ap import METRICS, average_precision
from segcore.evaluation.masks import encode_masks
from tests.segcore.evaluation.scenes import (
    CATEGORIES,
    THINGS,
    ground_truth,
    inputs,
    make,
    outputs,
    perfect,
    register,
    write_data_set,
)
from tests.segcore.evaluation.scenes import prediction as seen

THING_CATEGORIES = [{"id": c["id"], "name": c["name"]} for c in CATEGORIES if c["isthing"]]


def rle(mask: np.ndarray) -> dict:
    code = mask_api.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": code["size"], "counts": code["counts"].decode()}


def coco_json(scenes) -> dict:
    """Instance annotations made from scenes, one mask after the other."""
    images, annotations = [], []
    for number, (ids, segments) in enumerate(scenes, start=101):
        images.append({"id": number, "height": ids.shape[0], "width": ids.shape[1]})
        for s in segments:
            if s["category_id"] in THINGS:
                mask = ids == s["id"]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": s["category_id"],
                        "iscrowd": s["iscrowd"],
                        "segmentation": rle(mask),
                        "area": int(mask.sum()),
                        "bbox": [0, 0, 1, 1],
                    }
                )
    return {"images": images, "annotations": annotations, "categories": THING_CATEGORIES}


def official(truth: dict, results: list[dict]) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = json.loads(json.dumps(truth))
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [100 * value if value >= 0 else math.nan for value in evaluation.stats[:6]]


def big_scenes(count: int, seed: int = 5):
    """Scenes with instances of COCO's three sizes, predicted twice over for rivals of unequal score."""
    rng = np.random.default_rng(seed)
    scenes, found = [], []
    for _ in range(count):
        scene = ground_truth(rng, 240, 360, 14)
        rough = outputs(rng, *seen(rng, *scene))
        fine = outputs(rng, *seen(rng, *scene))
        fine["instances"] = type(fine["instances"]).cat([rough["instances"], fine["instances"]])
        scenes.append(scene)
        found.append(fine)
    return scenes, found


def results_of(found) -> list[dict]:
    category = {index: category_id for category_id, index in THINGS.items()}
    return [
        {
            "image_id": 101 + number,
            "category_id": category[int(k)],
            "score": float(score),
            "segmentation": rle(mask),
        }
        for number, output in enumerate(found)
        for mask, score, k in zip(
            output["instances"].pred_masks.numpy(),
            output["instances"].scores,
            output["instances"].pred_classes,
        )
    ]


def evaluated(evaluator, found) -> dict:
    evaluator.reset()
    for number, output in enumerate(found):
        evaluator.process([inputs(number)], [output])
    return evaluator.evaluate()["segm"]


def same(result: dict):
    """Equal to the last bit, NaN included."""
    return pytest.approx(result, rel=0, abs=0, nan_ok=True)


def test_equals_pycocotools_with_both_ground_truths(tmp_path):
    scenes, found = big_scenes(8)
    write_data_set(tmp_path, scenes)
    truth = coco_json(scenes)
    assert {annotation["iscrowd"] for annotation in truth["annotations"]} == {0, 1}
    expected = official(truth, results_of(found))
    assert all(0 < value < 95 for value in expected)

    derived = evaluated(InstanceEvaluator(register(tmp_path)), found)
    assert [derived[metric] for metric in METRICS] == expected  # to the last bit

    (tmp_path / "instances.json").write_text(json.dumps(truth))
    given = evaluated(InstanceEvaluator(register(tmp_path, json_file=str(tmp_path / "instances.json"))), found)
    assert given == same(derived)
    per_category = [derived[f"AP-{category['name']}"] for category in THING_CATEGORIES]
    assert np.nanmean(per_category) == pytest.approx(derived["AP"], abs=1e-9)


def test_ground_truth_as_prediction_gives_100(tmp_path):
    scenes = [(ids, [s for s in segments if (ids == s["id"]).any()]) for ids, segments in big_scenes(8)[0]]
    write_data_set(tmp_path, scenes)
    result = evaluated(InstanceEvaluator(register(tmp_path)), [perfect(*scene) for scene in scenes])
    assert {metric: result[metric] for metric in METRICS} == {metric: pytest.approx(100) for metric in METRICS}


def test_nothing_found_is_0_and_nothing_to_find_is_nan(tmp_path):
    name, _, found = make(tmp_path / "data", 2)
    for output in found:
        output["instances"] = output["instances"][torch.zeros(len(output["instances"]), dtype=torch.bool)]
    assert evaluated(InstanceEvaluator(name), found)["AP"] == 0.0
    result = average_precision([], THING_CATEGORIES)
    assert math.isnan(result["AP"]) and math.isnan(result["AP-car"])


def test_thing_indices_when_the_metadata_says_so(tmp_path):
    """A data set of ADE20K's kind: class indices of things have gaps, instance classes count things only."""
    name, _, found = make(tmp_path / "data", 3)
    expected = evaluated(InstanceEvaluator(name), found)
    from detectron2.data import MetadataCatalog

    MetadataCatalog.get(name).set(instance_class_map={2: 0, 5: 1, 9: 2})
    MetadataCatalog.get(name).as_dict()["thing_dataset_id_to_contiguous_id"].update({7: 2, 11: 5, 23: 9})
    assert evaluated(InstanceEvaluator(name), found) == same(expected)
    MetadataCatalog.get(name).as_dict()["thing_classes"].append("more")
    with pytest.raises(ValueError, match="4 thing_classes and 3 thing categories"):
        InstanceEvaluator(name)


def test_writes_results_only_when_asked(tmp_path):
    name, _, found = make(tmp_path / "data", 2)
    plain = evaluated(InstanceEvaluator(name, str(tmp_path / "out")), found)
    assert not (tmp_path / "out").exists()
    assert evaluated(InstanceEvaluator(name, str(tmp_path / "out"), save_predictions=True), found) == same(plain)
    written = json.loads((tmp_path / "out/coco_instances_results.json").read_text())
    assert written == results_of(found)


def test_masks_become_rle_whatever_their_kind():
    masks = torch.rand(37, 13, 9) > 0.5
    expected = [rle(mask.numpy()) for mask in masks]
    assert encode_masks(masks) == expected
    assert encode_masks(masks.float() * 0.9) == expected
    assert encode_masks(masks[:0]) == []


def test_images_are_counted_once_and_all(tmp_path):
    name, _, found = make(tmp_path / "data", 3)
    evaluator = InstanceEvaluator(name)
    expected = evaluated(evaluator, found)
    evaluator.process([inputs(1)], [found[0]])  # again, with another prediction
    assert evaluator.evaluate()["segm"] == same(expected)
    with pytest.raises(ValueError, match="2 of 3 images were not evaluated"):
        evaluated(evaluator, found[:1])


def test_wrong_input_is_named(tmp_path):
    name, scenes, found = make(tmp_path / "data", 1)
    instances = found[0]["instances"]
    evaluator = InstanceEvaluator(name)
    instances.pred_classes[0] = 4  # stuff
    with pytest.raises(ValueError, match="predicted class 4 is no thing class"):
        evaluator.process([inputs(0)], found)
    instances.pred_classes[0] = 0
    instances.pred_masks = instances.pred_masks[:, 1:]
    with pytest.raises(ValueError, match=r"'101'.*\(47, 64\).*\(48, 64\)"):
        evaluator.process([inputs(0)], found)
    with pytest.raises(ValueError, match="needs the model's 'instances'"):
        evaluator.process([inputs(0)], [{"sem_seg": 0}])
    with pytest.raises(FileNotFoundError, match=r"gone.json do not exist"):
        InstanceEvaluator(register(tmp_path / "data", json_file="gone.json")).process([inputs(0)], found)

    truth = coco_json(scenes)
    truth["categories"] = truth["categories"][:1]
    truth["annotations"] = [a for a in truth["annotations"] if a["category_id"] == 7]
    (tmp_path / "other.json").write_text(json.dumps(truth))
    instances.pred_masks = torch.zeros(len(instances), 48, 64, dtype=torch.bool)
    instances.pred_classes[:] = 2
    evaluator = InstanceEvaluator(register(tmp_path / "data", json_file=str(tmp_path / "other.json")))
    evaluator.process([inputs(0)], found)
    with pytest.raises(ValueError, match=r"category ids \[23\]"):
        evaluator.evaluate()

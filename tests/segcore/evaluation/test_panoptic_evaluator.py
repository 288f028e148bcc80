"""PanopticEvaluator as a drop-in for Detectron2's: forms of output, files, images counted once, errors."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from segcore.evaluation import PanopticEvaluator, PanopticStat, panoptic_quality
from segcore.evaluation.ground_truth import read_panoptic_png
from tests.segcore.evaluation.scenes import CATEGORIES, CLASSES, inputs, make, perfect, register

KEYS = ["PQ", "SQ", "RQ", "PQ_th", "SQ_th", "RQ_th", "PQ_st", "SQ_st", "RQ_st"]


def evaluated(evaluator, outputs) -> dict:
    evaluator.reset()
    for number, output in enumerate(outputs):
        evaluator.process([inputs(number)], [output])
    return evaluator.evaluate()["panoptic_seg"]


def test_equals_the_pure_function_in_percent(tmp_path):
    name, scenes, outputs = make(tmp_path / "data", 6)
    result = evaluated(PanopticEvaluator(name), outputs)
    total = PanopticStat(CATEGORIES)
    for (gt_ids, gt_segments), output in zip(scenes, outputs):
        ids, segments = output["panoptic_seg"]
        named = [{**s, "category_id": CATEGORIES[s["category_id"]]["id"]} for s in segments]
        total += panoptic_quality(ids, named, gt_ids, gt_segments, CATEGORIES)
    assert list(result) == KEYS
    expected = total.result()
    assert result["PQ"] == 100 * expected["All"]["pq"] and 5 < result["PQ"] < 95
    assert result["SQ_th"] == 100 * expected["Things"]["sq"]
    assert result["RQ_st"] == 100 * expected["Stuff"]["rq"]


def test_ground_truth_as_prediction_gives_100(tmp_path):
    name, scenes, _ = make(tmp_path / "data", 4)
    for _, segments in scenes:  # what no prediction can show: segments without pixels
        segments[:] = [s for s in segments if any((ids == s["id"]).any() for ids, _ in scenes)]
    content = json.loads((tmp_path / "data/panoptic.json").read_text())
    for annotation, (_, segments) in zip(content["annotations"], scenes):
        annotation["segments_info"] = segments
    (tmp_path / "data/panoptic.json").write_text(json.dumps(content))
    result = evaluated(PanopticEvaluator(name), [perfect(*scene) for scene in scenes])
    assert result == dict.fromkeys(KEYS, 100.0)


def test_other_forms_of_output_give_the_same(tmp_path):
    name, _, outputs = make(tmp_path / "data", 3)
    evaluator = PanopticEvaluator(name)
    expected = evaluated(evaluator, outputs)

    dataset_ids, divided = [], []
    for output in outputs:
        ids, segments = output["panoptic_seg"]
        bare = [{"id": s["id"], "category_id": CATEGORIES[s["category_id"]]["id"]} for s in segments]
        dataset_ids.append({"panoptic_seg": (ids.to(torch.int64), bare)})
        labels = torch.full_like(ids, -1)
        for s in segments:
            labels[ids == s["id"]] = s["category_id"] * 1000 + s["id"]
        divided.append({"panoptic_seg": (labels, None)})
    before = [output["panoptic_seg"][0].clone() for output in divided]
    assert evaluated(evaluator, dataset_ids) == expected
    assert evaluated(evaluator, divided) == expected
    assert all(torch.equal(a, b["panoptic_seg"][0]) for a, b in zip(before, divided))  # inputs left alone


def test_a_repeated_image_counts_once_and_a_missing_one_is_named(tmp_path):
    name, _, outputs = make(tmp_path / "data", 3)
    evaluator = PanopticEvaluator(name)
    expected = evaluated(evaluator, outputs)
    evaluator.process([inputs(0), inputs(2)], [outputs[0], outputs[1]])  # even with another prediction
    assert evaluator.evaluate()["panoptic_seg"] == expected
    with pytest.raises(ValueError, match=r"1 of 3 images were not evaluated, e.g. \['103'\]"):
        evaluated(evaluator, outputs[:2])


def test_things_only(tmp_path):
    name, scenes, _ = make(tmp_path / "data", 1)
    ids = scenes[0][0]
    label = int(ids.max())
    content = json.loads((tmp_path / "data/panoptic.json").read_text())
    pixels = (ids == label)[..., None] * np.array([1, 0, 0])
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "data/panoptic/000101.png")
    content["annotations"][0]["segments_info"] = [{"id": 1, "category_id": 7, "iscrowd": 0}]
    (tmp_path / "data/panoptic.json").write_text(json.dumps(content))
    segment = {"id": 1, "category_id": 0, "isthing": True}
    output = {"panoptic_seg": (torch.from_numpy((ids == label).astype(np.int32)), [segment])}
    result = evaluated(PanopticEvaluator(name), [output])
    assert result["PQ"] == result["PQ_th"] == 100 and math.isnan(result["PQ_st"])


def test_writes_predictions_only_when_asked(tmp_path):
    name, scenes, outputs = make(tmp_path / "data", 2)
    plain = evaluated(PanopticEvaluator(name, str(tmp_path / "out")), outputs)
    assert not (tmp_path / "out").exists()

    saving = PanopticEvaluator(name, str(tmp_path / "out"), save_predictions=True)
    assert evaluated(saving, outputs) == plain
    content = json.loads((tmp_path / "out/panoptic_predictions.json").read_text())
    files = [p.name for p in sorted((tmp_path / "out/panoptic").iterdir())]
    assert files == ["000101.png", "000102.png"]
    for annotation, output, scene in zip(content["annotations"], outputs, scenes):
        ids = read_panoptic_png(str(tmp_path / "out/panoptic" / annotation["file_name"]))
        assert np.array_equal(ids, output["panoptic_seg"][0].numpy())
        panoptic_quality(ids, annotation["segments_info"], *scene, CATEGORIES)  # the data set's category ids
    with pytest.raises(ValueError, match="output_dir"):
        PanopticEvaluator(name, save_predictions=True)


def test_official_kind_of_metadata_and_named_images(tmp_path):
    """Cityscapes maps things and stuff apart and names its images."""
    name, _, outputs = make(tmp_path / "data", 2)
    expected = evaluated(PanopticEvaluator(name), outputs)
    content = json.loads((tmp_path / "data/panoptic.json").read_text())
    for annotation in content["annotations"]:
        annotation["image_id"] = f"ulm_{annotation['image_id']}"
    (tmp_path / "data/panoptic.json").write_text(json.dumps(content))
    name = register(tmp_path / "data")
    from detectron2.data import MetadataCatalog

    MetadataCatalog.pop(name)
    MetadataCatalog.get(name).set(
        panoptic_root=str(tmp_path / "data/panoptic"),
        panoptic_json=str(tmp_path / "data/panoptic.json"),
        thing_dataset_id_to_contiguous_id={7: 0, 11: 1, 23: 2},
        stuff_dataset_id_to_contiguous_id={40: 3, 41: 4, 55: 5},
    )
    evaluator = PanopticEvaluator(name)
    for number, output in enumerate(outputs):
        evaluator.process([{"image_id": f"ulm_{101 + number}"}], [output])
    assert evaluator.evaluate()["panoptic_seg"] == expected


def one_image(tmp_path):
    name, _, outputs = make(tmp_path / "data", 1)
    return name, outputs[0], tmp_path / "data/panoptic/000101.png"


def test_bad_predictions_are_named_with_their_image(tmp_path):
    name, output, _ = one_image(tmp_path)
    ids, segments = output["panoptic_seg"]
    evaluator = PanopticEvaluator(name)

    def process(prediction, image=None):
        evaluator.process([image or inputs(0)], [prediction])

    with pytest.raises(ValueError, match=r"image 101 .*000101.png.*segment ids \[1\]"):
        process({"panoptic_seg": (ids, segments[1:])})
    with pytest.raises(ValueError, match=r"image 101 .*has class 17, which is no stuff class"):
        process({"panoptic_seg": (ids, [{"id": 1, "category_id": 17, "isthing": False}])})
    with pytest.raises(ValueError, match=r"image 101 .*47x64 but the ground truth 48x64"):
        process({"panoptic_seg": (ids[1:], segments)})
    with pytest.raises(ValueError, match=r"needs the model's 'panoptic_seg', got only \['sem_seg'\]"):
        process({"sem_seg": output["sem_seg"]})
    with pytest.raises(ValueError, match="image_id 7 is not annotated"):
        process(output, {"image_id": 7})
    process(output)  # nothing of the failed ones was kept
    assert evaluator.evaluate()["panoptic_seg"]["PQ"] > 0


def test_bad_ground_truth_is_named_with_its_file(tmp_path):
    name, output, png = one_image(tmp_path)

    def process():
        PanopticEvaluator(name).process([inputs(0)], [output])

    good = png.read_bytes()
    png.write_bytes(good[: len(good) // 2])
    with pytest.raises(ValueError, match=r"000101.png cannot be decoded"):
        process()
    png.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"000101.png cannot be decoded"):
        process()
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(png)
    with pytest.raises(ValueError, match=r"000101.png has mode L"):
        process()
    Image.fromarray(np.full((48, 64, 3), 9, np.uint8)).save(png)
    with pytest.raises(ValueError, match=r"000101.png.*ground truth's map shows segment ids \[592137\]"):
        process()
    png.unlink()
    with pytest.raises(FileNotFoundError, match=r"000101.png does not exist"):
        process()


def test_bad_metadata_and_json_are_named(tmp_path):
    name, output, _ = one_image(tmp_path)
    with pytest.raises(ValueError, match="'nowhere' has no metadata 'panoptic_root'"):
        PanopticEvaluator("nowhere")
    for content, words in (
        ({"annotations": [], "categories": CATEGORIES}, "has no annotations"),
        ({"annotations": [{}]}, "has no categories"),
        ({"annotations": [{"image_id": 1}, {"image_id": 1}], "categories": CATEGORIES}, "more than once"),
    ):
        (tmp_path / "data/panoptic.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=words):
            PanopticEvaluator(name).process([inputs(0)], [output])
    (tmp_path / "data/panoptic.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"panoptic.json do not exist"):
        PanopticEvaluator(name).process([inputs(0)], [output])


def test_class_indices_follow_the_categories():
    assert [CLASSES[category["id"]] for category in CATEGORIES] == list(range(6))

"""SemanticEvaluator against Detectron2's own, with the ground truth from either source."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from PIL import Image

from segcore.evaluation import SemanticEvaluator
from tests.segcore.evaluation.scenes import CATEGORIES, CLASSES, inputs, make, perfect


def label_map(ids: np.ndarray, segments: list[dict]) -> np.ndarray:
    labels = np.full(ids.shape, 255, np.uint8)
    for segment in segments:
        labels[ids == segment["id"]] = CLASSES[segment["category_id"]]
    return labels


@pytest.fixture
def with_label_files(tmp_path):
    """(name of the panoptic set, name of one whose records name label PNGs, scenes, outputs)."""
    name, scenes, outputs = make(tmp_path / "data", 4)
    records = []
    for number, scene in enumerate(scenes):
        path = str(tmp_path / f"label_{number}.png")
        Image.fromarray(label_map(*scene)).save(path)
        records.append({**inputs(number), "sem_seg_file_name": path})
    labelled = f"{name}_labels"
    DatasetCatalog.register(labelled, lambda: records)
    MetadataCatalog.get(labelled).set(stuff_classes=[c["name"] for c in CATEGORIES], ignore_label=255)
    yield name, labelled, scenes, outputs
    DatasetCatalog.remove(labelled)
    MetadataCatalog.pop(labelled)


def evaluated(evaluator, outputs) -> dict:
    evaluator.reset()
    for number, output in enumerate(outputs):
        evaluator.process([inputs(number)], [output])
    return evaluator.evaluate()["sem_seg"]


def test_equals_detectron2_with_both_ground_truths(with_label_files):
    name, labelled, _, outputs = with_label_files

    def load(path, dtype):  # Detectron2's own loader does not work with NumPy 2
        return np.array(Image.open(path)).astype(dtype)

    theirs = SemSegEvaluator(labelled, distributed=False, sem_seg_loading_fn=load)
    expected = evaluated(theirs, outputs)
    expected = {key: value for key, value in expected.items() if "B-Iou" not in key and "Boundary" not in key}
    assert 5 < expected["mIoU"] < 95 and len(expected) == 4 + 2 * 6
    assert evaluated(SemanticEvaluator(labelled), outputs) == expected
    assert evaluated(SemanticEvaluator(name), outputs) == expected


def test_ground_truth_as_prediction_gives_100(with_label_files):
    name, _, scenes, _ = with_label_files
    maps = [torch.from_numpy(label_map(*scene)).long() for scene in scenes]
    outputs = [{"sem_seg": torch.where(labels == 255, 0, labels)} for labels in maps]
    result = evaluated(SemanticEvaluator(name), outputs)  # a label map does as well as scores
    assert list(result.values()) == [pytest.approx(100)] * len(result)
    without_crowds = evaluated(SemanticEvaluator(name), [perfect(*scene) for scene in scenes])
    assert without_crowds["mIoU"] < 100  # crowds count as their category


def test_by_hand(tmp_path):
    name, scenes, _ = make(tmp_path / "data", 1)
    truth = label_map(*scenes[0])
    first, second = [index for index in range(6) if (truth == index).any()][:2]
    result = evaluated(SemanticEvaluator(name), [{"sem_seg": torch.full(truth.shape, first)}])
    known = (truth != 255).sum()
    share = (truth == first).sum() / known
    names = [category["name"] for category in CATEGORIES]
    assert result[f"IoU-{names[first]}"] == pytest.approx(100 * share)
    assert result[f"IoU-{names[second]}"] == 0
    assert result["pACC"] == pytest.approx(100 * share)
    assert result["fwIoU"] == pytest.approx(100 * share * share)
    present = len(set(np.unique(truth)) - {255})
    assert result["mIoU"] == pytest.approx(100 * share / present)
    assert result["mACC"] == pytest.approx(100 / present)


def test_a_repeated_image_counts_once_and_a_missing_one_is_named(with_label_files):
    name, labelled, _, outputs = with_label_files
    for data_set in (name, labelled):
        evaluator = SemanticEvaluator(data_set)
        expected = evaluated(evaluator, outputs)
        evaluator.process([inputs(2)], [outputs[0]])
        assert evaluator.evaluate()["sem_seg"] == expected
        with pytest.raises(ValueError, match="3 of 4 images were not evaluated"):
            evaluated(evaluator, outputs[:1])


def test_all_void_is_nan(tmp_path):
    name, _, _ = make(tmp_path / "data", 1)
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / "data/panoptic/000101.png")
    result = evaluated(SemanticEvaluator(name), [{"sem_seg": torch.zeros(48, 64, dtype=torch.int64)}])
    assert math.isnan(result["mIoU"]) and math.isnan(result["pACC"])


def test_writes_label_maps_only_when_asked(tmp_path):
    name, _, outputs = make(tmp_path / "data", 1)
    plain = evaluated(SemanticEvaluator(name, str(tmp_path / "out")), outputs)
    assert not (tmp_path / "out").exists()
    assert evaluated(SemanticEvaluator(name, str(tmp_path / "out"), save_predictions=True), outputs) == plain
    labels = np.asarray(Image.open(tmp_path / "out/semantic/000101.png"))
    assert np.array_equal(labels, outputs[0]["sem_seg"].argmax(0).numpy())


def test_wrong_input_is_named(with_label_files):
    name, labelled, _, _ = with_label_files
    evaluator = SemanticEvaluator(name)

    def process(sem_seg, evaluator=evaluator, image=None):
        evaluator.process([image or inputs(0)], [{"sem_seg": sem_seg}])

    with pytest.raises(ValueError, match=r"'101'.*\(6, H, W\).*got \(5, 48, 64\)"):
        process(torch.zeros(5, 48, 64))
    with pytest.raises(ValueError, match="labels below 6"):
        process(torch.full((48, 64), 6))
    with pytest.raises(ValueError, match=r"\(40, 64\).*truth \(48, 64\)"):
        process(torch.zeros(6, 40, 64))
    with pytest.raises(ValueError, match=r"'images/other.jpg' is not a file_name"):
        process(torch.zeros(6, 48, 64), SemanticEvaluator(labelled), {"file_name": "images/other.jpg"})

    path = DatasetCatalog.get(labelled)[0]["sem_seg_file_name"]
    for array, words in (
        (np.full((48, 64), 77, np.uint8), r"labels \[77\]; expected below 6 or 255"),
        (np.zeros((48, 64, 3), np.uint8), "one integer label per pixel"),
    ):
        Image.fromarray(array).save(path)
        with pytest.raises(ValueError, match=words):
            process(torch.zeros(6, 48, 64), SemanticEvaluator(labelled))
    with open(path, "wb") as file:
        file.write(b"no image")
    with pytest.raises(ValueError, match=r"label_0.png cannot be decoded"):
        process(torch.zeros(6, 48, 64), SemanticEvaluator(labelled))
    with pytest.raises(ValueError, match="'nothing' has no metadata 'stuff_classes'"):
        SemanticEvaluator("nothing")


def test_label_files_for_some_images_only_are_refused(with_label_files):
    _, labelled, _, _ = with_label_files
    del DatasetCatalog.get(labelled)[1]["sem_seg_file_name"]
    with pytest.raises(ValueError, match="4 records but 3 distinct images"):
        SemanticEvaluator(labelled)


def test_a_segment_of_no_class_is_named(tmp_path):
    name, _, outputs = make(tmp_path / "data", 1)
    del MetadataCatalog.get(name).as_dict()["stuff_dataset_id_to_contiguous_id"][40]
    MetadataCatalog.get(name).as_dict()["stuff_dataset_id_to_contiguous_id"].update({999: 3})
    with pytest.raises(ValueError, match="maps to no class"):
        SemanticEvaluator(name).process([inputs(0)], outputs)

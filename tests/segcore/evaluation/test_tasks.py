"""All tasks in one pass, the table, the JSON file."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from detectron2.evaluation import DatasetEvaluators

from segcore.evaluation import build_evaluator, evaluate_tasks, metrics_table, write_metrics
from tests.segcore.evaluation.scenes import inputs, make


class Recorded(torch.nn.Module):
    """A model that knows each image's outputs and answers only what it is asked."""

    KEY = {"panoptic": "panoptic_seg", "instance": "instances", "semantic": "sem_seg"}

    def __init__(self, outputs):
        super().__init__()
        self.outputs, self.asked = outputs, []

    def forward(self, batch):
        self.asked += [image["task"] for image in batch]
        keys = self.KEY.values() if batch[0]["task"] == "all" else [self.KEY[batch[0]["task"]]]
        return [{key: self.outputs[image["image_id"] - 101][key] for key in keys} for image in batch]


def loader(count):
    return [[inputs(k) for k in range(start, min(start + 2, count))] for start in range(0, count, 2)]


def test_one_pass_measures_every_task(tmp_path):
    name, _, outputs = make(tmp_path / "data", 5)
    model = Recorded(outputs)
    results = evaluate_tasks(model, loader(5), name)
    assert model.asked == ["all"] * 5
    assert list(results) == ["panoptic_seg", "segm", "sem_seg"]
    for task, key in (("panoptic", "panoptic_seg"), ("instance", "segm"), ("semantic", "sem_seg")):
        single = Recorded(outputs)
        alone = evaluate_tasks(single, loader(5), name, [task])
        assert single.asked == [task] * 5
        assert list(alone) == [key]
        assert json.dumps(alone[key]) == json.dumps(results[key])  # as text: NaN equals NaN
        assert isinstance(build_evaluator(name, [task]), DatasetEvaluators)


def test_tasks_are_checked(tmp_path):
    name, _, _ = make(tmp_path / "data", 1)
    for tasks in ([], ["panoptic", "panoptic"], ["depth"], "all"):
        with pytest.raises(ValueError, match="distinct and some of"):
            build_evaluator(name, tasks)


RESULTS = {
    "panoptic_seg": {"PQ": 61.234, "SQ": 80.0, "RQ": 75.5, "PQ_th": 1.0, "SQ_th": 2.0, "RQ_th": 3.0}
    | {"PQ_st": float("nan"), "SQ_st": float("nan"), "RQ_st": float("nan")},
    "segm": {"AP": 41.5, "AP50": 60.0, "AP75": 43.21, "APs": 1.5, "APm": 2.5, "APl": 98.76, "AP-car": 5.0},
    "sem_seg": {"mIoU": 77.7, "fwIoU": 88.8, "mACC": 66.6, "pACC": 99.9, "IoU-car": 5.0},
}


def test_one_table_of_every_headline_metric():
    table = metrics_table(RESULTS)
    cells = table.replace("│", " ").split()
    for metrics in RESULTS.values():
        for name, value in metrics.items():
            if "-" in name:
                assert name not in cells
            else:
                shown = cells[cells.index(name) + 1]
                assert shown == ("-" if np.isnan(value) else f"{value:.2f}"), name
    assert len({len(line) for line in table.splitlines()}) == 1
    assert "segm" not in metrics_table({"sem_seg": RESULTS["sem_seg"]})
    both = metrics_table({"first_val": RESULTS, "second_val": RESULTS})
    assert both.count(table) == 2 and "second_val" in both
    with pytest.raises(ValueError, match="no metrics to show"):
        metrics_table({})


def test_metrics_file_has_null_for_nan_and_appears_at_once(tmp_path):
    path = tmp_path / "out" / "metrics_final.json"
    write_metrics({**RESULTS, "extra": {"count": np.int64(3), "loss": torch.tensor(0.5), "l": [np.nan]}}, str(path))
    content = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert content["panoptic_seg"]["PQ_st"] is None
    assert content["segm"] == RESULTS["segm"]
    assert content["extra"] == {"count": 3, "loss": 0.5, "l": [None]}
    assert os.listdir(path.parent) == ["metrics_final.json"]

    with pytest.raises(TypeError):
        write_metrics({"bad": {"value": object()}}, str(path))
    assert json.loads(path.read_text()) == content  # the good file survives

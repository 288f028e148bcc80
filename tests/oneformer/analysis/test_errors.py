"""Errors on a set whose labels are known: nothing wrong with the truth, and mistakes made by hand."""

from __future__ import annotations

import uuid

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances

from oneformer.analysis import find_errors
from oneformer.analysis.pictures import draw_error
from segcore.data import register_instances, register_panoptic, register_semantic
from segcore.predictions import Classes
from tests.segcore.data import samples

NAMES = samples.CLASSES


def one_hot(labels):
    return torch.nn.functional.one_hot(torch.from_numpy(labels.astype(np.int64)), 3).permute(2, 0, 1).float()


def truth(number, spoil=lambda labels: labels):
    """A perfect model's output on image `number`, its semantic labels changed by `spoil`."""
    balls = samples.balls(number)
    ids = samples.labels(number).astype(np.int32) + 1
    for ball, mask in enumerate(balls):
        ids[mask] = 3 + ball
    segments = [{"id": i + 1, "category_id": min(i, 2), "isthing": i > 1} for i in range(4)]
    found = Instances(ids.shape, scores=torch.ones(2), pred_classes=torch.zeros(2, dtype=torch.int64))
    found.pred_masks = torch.from_numpy(np.stack(balls))
    return {
        "sem_seg": one_hot(spoil(samples.labels(number))),
        "panoptic_seg": (torch.from_numpy(ids), segments),
        "instances": found,
    }


@pytest.fixture
def panoptic(tmp_path):
    name = uuid.uuid4().hex
    register_panoptic(name, **samples.write_panoptic(tmp_path, 3))
    return name


def test_a_perfect_model_makes_no_error(panoptic):
    report = find_errors(
        lambda xs: [truth(xs[0]["image_id"])], DatasetCatalog.get(panoptic), NAMES, ["panoptic", "semantic"]
    )
    assert report.confused_rows() == [] and report.missed.sum() == 0
    assert [row[:4] for row in report.class_rows()] == [[name, 100.0, 100.0, 100.0] for name in NAMES]
    assert [row[4:] for row in report.class_rows()] == [[3, 3], [3, 3], [6, 6]]
    assert [score for score, _ in report.images] == [1.0] * 3


def test_mistakes_made_by_hand(panoptic):
    def model(xs):
        output = truth(xs[0]["image_id"], lambda labels: np.where(labels == 2, 1, labels))
        if xs[0]["image_id"] == 1:  # one ball is lost, sky becomes grass
            ids, segments = output["panoptic_seg"]
            output["panoptic_seg"] = ids.masked_fill(ids == 3, 0), segments[:2] + segments[3:]
            segments[0]["category_id"] = 1
        return [output]

    report = find_errors(model, DatasetCatalog.get(panoptic), NAMES, ["panoptic", "semantic"])
    (true, taken, share, pixels), *others = report.confused_rows()
    assert (true, taken, share) == ("ball", "grass", 100.0) and others == []
    assert pixels == sum((samples.labels(i) == 2).sum() for i in range(3))
    assert report.found.tolist() == [2, 3, 5] and report.missed.tolist() == [1, 0, 1]
    # image 1: grass and one ball found; sky and a ball missed; the false grass is one too many
    assert report.images[0][0] == pytest.approx(2 / (2 + 0.5 * (2 + 1)))
    assert report.images[0][1].endswith("01.png")


def test_labels_of_one_task(tmp_path):
    names = [uuid.uuid4().hex for _ in range(2)]
    register_semantic(names[0], **samples.write_semantic(tmp_path / "s", 2))
    register_instances(names[1], **samples.write_masks(tmp_path / "m", 2))
    halves = find_errors(
        lambda xs: [{"sem_seg": one_hot(np.zeros((32, 48), np.uint8))}],
        DatasetCatalog.get(names[0]),
        NAMES,
        ["semantic"],
    )
    sky = (samples.labels(0) == 0).mean()
    assert sorted(score for score, _ in halves.images)[0] == pytest.approx(
        min((samples.labels(i) == 0).mean() for i in range(2)) / 3
    ) and 0 < sky < 1
    found = find_errors(
        lambda xs: [{"instances": truth(int(xs[0]["image_id"]))["instances"][:1]}],
        DatasetCatalog.get(names[1]),
        ["ball"],
        ["instance"],
    )
    assert [score for score, _ in found.images] == [0.5, 0.5] and found.confusion.sum() == 0


def test_the_picture_of_an_error(panoptic):
    record = DatasetCatalog.get(panoptic)[0]
    picture = draw_error(record, truth(0), 0.5, Classes.from_metadata(MetadataCatalog.get(panoptic)))
    assert picture.dtype == np.uint8 and picture.shape[1] > 3 * 500

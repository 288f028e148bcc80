"""Typed results: numbers that follow from the maps, and classes from metadata."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from segcore import predictions
from segcore.data.metadata import panoptic_metadata
from segcore.predictions import Classes, PanopticResult, SemanticResult
from tests.pictures import CLASS_OF, CLASSES, IDS


def test_segments_of_a_map():
    result = PanopticResult.from_map(IDS, CLASS_OF, CLASSES)
    assert [segment.id for segment in result.segments] == [1, 2, 7, 300]  # 99 has no pixel
    for segment in result.segments:
        rows, columns = np.nonzero(segment.id == IDS)
        assert segment.area == len(rows)
        assert segment.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert (segment.name, segment.isthing) == (
            CLASSES.names[CLASS_OF[segment.id]],
            segment.id in (7, 300),
        )


def test_an_empty_map():
    assert PanopticResult.from_map(np.zeros((2, 3), np.int32), {}, CLASSES).segments == []


def test_an_id_without_class():
    with pytest.raises(ValueError, match=r"segments \[300\] that no class is given for"):
        PanopticResult.from_map(IDS, {1: 0, 2: 2, 7: 1}, CLASSES)


def test_a_large_map_in_little_memory(monkeypatch):
    """What is made of a map beside it is bounded by `_PIXELS_AT_ONCE`; bands change nothing."""
    ids = np.zeros((1200, 1500), np.int32)
    ids[100:900, 3:1400] = 300
    ids[400:1200, 700:] = 7
    class_of, classes = {300: 0, 7: 1}, CLASSES
    whole = PanopticResult.from_map(ids, class_of, classes)
    monkeypatch.setattr(predictions, "_PIXELS_AT_ONCE", 50_000)
    tracemalloc.start()
    found = PanopticResult.from_map(ids, class_of, classes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.segments == whole.segments and [s.area for s in found.segments] == [640_000, 767_600]
    assert [s.box for s in found.segments] == [(700, 400, 1500, 1200), (3, 100, 1400, 900)]
    assert peak < ids.nbytes   # 7 MB; in one piece its indices alone are 24 MB


def test_shares():
    shares = SemanticResult(np.array([[0, 0, 0, 2]], np.uint8), CLASSES.names).shares()
    assert shares == {0: 0.75, 2: 0.25} and list(shares) == [0, 2]


CATEGORIES = [
    {"id": 10, "name": "sky", "isthing": 0, "color": [0, 128, 128]},
    {"id": 20, "name": "car", "isthing": 1, "color": [128, 0, 128]},
    {"id": 30, "name": "road", "isthing": 0, "color": [128, 64, 0]},
]


@pytest.mark.parametrize("stuff_ids", ["all", "stuff"])
def test_classes_of_metadata(stuff_ids):
    assert Classes.from_metadata(panoptic_metadata(CATEGORIES, stuff_ids=stuff_ids)) == CLASSES


def test_a_benchmark_that_numbers_its_objects_apart():
    metadata = panoptic_metadata(CATEGORIES, evaluator_type="ade20k_panoptic_seg")
    assert Classes.from_metadata(metadata).instance_numbers == {0: 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stuff_classes": []}, "names no classes"),
        ({"stuff_colors": [[0, 0, 0]]}, "3 classes but 1 colours"),
        ({"stuff_dataset_id_to_contiguous_id": {10: 0}}, "id maps cover 2 of 3 classes"),
    ],
)
def test_metadata_that_contradicts_itself(change, message):
    with pytest.raises(ValueError, match=message):
        Classes.from_metadata({**panoptic_metadata(CATEGORIES), **change})

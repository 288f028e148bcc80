"""Every kind of annotation as one label map, worked by hand on a picture of 4 x 6 pixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from seggpt.data.annotations import VOID, categories_of, read_label_map

SIZE = (4, 6)
IDS = np.array([[0, 0, 7, 7, 7, 7], [5, 5, 7, 7, 7, 7], [5, 5, 9, 9, 7, 7], [5, 5, 9, 9, 3, 3]], np.uint8)


@pytest.fixture
def panoptic(tmp_path):
    Image.fromarray(np.stack([IDS, 0 * IDS, 0 * IDS], -1)).save(tmp_path / "pan.png")
    segments = [
        {"id": 7, "category_id": 2, "isthing": False},
        {"id": 5, "category_id": 0, "isthing": True},
        {"id": 9, "category_id": 0, "isthing": True},
        {"id": 3, "category_id": 1, "isthing": True, "iscrowd": 1},
    ]
    return {"file_name": "a.jpg", "pan_seg_file_name": str(tmp_path / "pan.png"), "segments_info": segments}


@pytest.mark.parametrize(
    "by_instance,things_only,expected",
    [
        (False, False, {0: VOID, 7: 3, 5: 1, 9: 1, 3: 2}),
        (False, True, {0: VOID, 7: 0, 5: 1, 9: 1, 3: 2}),
        (True, False, {0: VOID, 7: 0, 5: 2, 9: 3, 3: VOID}),
    ],
)
def test_panoptic(panoptic, by_instance, things_only, expected):
    labels = read_label_map(panoptic, SIZE, by_instance=by_instance, things_only=things_only)
    assert (labels == np.vectorize(expected.get)(IDS)).all()
    assert categories_of(panoptic, things_only) == ({0, 1} if things_only else {0, 1, 2})


def test_instances_from_polygons_and_rle():
    mask = np.zeros(SIZE, np.uint8)
    mask[:, 4:] = 1
    crowd = np.zeros(SIZE, np.uint8)
    crowd[2:] = 1
    uncompressed = {"size": list(SIZE), "counts": [16, 8]}  # column by column: the last two columns
    record = {
        "file_name": "a.jpg",
        "annotations": [
            {"category_id": 3, "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]]},
            {"category_id": 1, "segmentation": coco_mask.encode(np.asfortranarray(mask))},
            {"category_id": 1, "segmentation": coco_mask.encode(np.asfortranarray(crowd)), "iscrowd": 1},
        ],
    }
    expected = np.zeros(SIZE, int)
    expected[2:] = VOID
    expected[:2, :2], expected[:, 4:] = 1, 2
    assert (read_label_map(record, SIZE, by_instance=True) == expected).all()
    by_category = np.select([expected == 1, expected != 0], [4, 2], 0)
    assert (read_label_map(record, SIZE, by_instance=False) == by_category).all()
    record["annotations"][1]["segmentation"] = uncompressed
    assert (read_label_map(record, SIZE, by_instance=True) == expected).all()
    assert categories_of(record) == {1, 3}


def test_label_png_and_binary_mask(tmp_path):
    labels = np.array([[0, 1, 255, 2, 2, 2]] * 4, np.uint8)
    Image.fromarray(labels).save(tmp_path / "sem.png")
    record = {"file_name": "a.jpg", "sem_seg_file_name": str(tmp_path / "sem.png")}
    assert (read_label_map(record, SIZE, by_instance=False)[0] == [1, 2, VOID, 3, 3, 3]).all()
    assert categories_of(record) is None
    Image.fromarray((labels == 2).astype(np.uint8) * 200).save(tmp_path / "mask.png")
    record = {"file_name": "a.jpg", "mask_file_name": str(tmp_path / "mask.png"), "category_id": 4}
    assert (read_label_map(record, SIZE, by_instance=False)[0] == [0, 0, 0, 5, 5, 5]).all()


def test_what_cannot_be_read_is_said(panoptic, tmp_path):
    with pytest.raises(ValueError, match="its picture 9x4"):
        read_label_map(panoptic, (4, 9), by_instance=False)
    with pytest.raises(ValueError, match="has no annotation; expected pan_seg_file_name"):
        read_label_map({"file_name": "a.jpg"}, SIZE, by_instance=False)
    record = {"file_name": "a.jpg", "sem_seg_file_name": str(tmp_path / "none.png")}
    with pytest.raises(ValueError, match="has no instances .*INSTANCE_PROB 0"):
        read_label_map(record, SIZE, by_instance=True)
    with pytest.raises(FileNotFoundError, match="none.png"):
        read_label_map(record, SIZE, by_instance=False)

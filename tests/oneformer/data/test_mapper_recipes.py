"""The mapper under both recipes against the released mappers' steps, on the same random numbers."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image

from oneformer.data.augmentation import lsj, resize_crop
from oneformer.data.mapper import OneFormerMapper
from segcore.ops import use_backend
from tests.oneformer.data import straightforward

NAMES = [f"class {i}" for i in range(12)]
THINGS = range(7)


def recipes(name):
    """Our mapper and the straightforward one."""
    common = {"class_names": NAMES, "thing_ids": THINGS, "num_texts": 14}
    if name == "lsj":
        settings = {"image_size": 48, "min_scale": 0.1, "max_scale": 2.0}
        ours, theirs, extra = lsj(**settings), straightforward.lsj(**settings), {}
    else:
        sizes, crop = [20, 40, 60, 80], (40, 40)
        ours = resize_crop(
            min_sizes=sizes, max_size=120, sampling="choice", crop=("absolute", crop), color_jitter=True, pad_to=40
        )
        theirs = straightforward.resize_crop(sizes, 120, crop)
        extra = {"pad_to": 40, "with_semantic": True}
    probabilities = {"semantic": 0.33, "instance": 0.33, "panoptic": 0.34}
    return (
        OneFormerMapper(is_train=True, augmentations=ours, task_prob=probabilities, **common),
        straightforward.StraightforwardMapper(theirs, task_prob=(0.33, 0.33), **common, **extra),
    )


@pytest.fixture
def record(tmp_path):
    rng = np.random.default_rng(0)
    height, width, count = 40, 56, 9
    cells = np.kron(rng.integers(0, count + 1, (5, 7)), np.ones((8, 8), int))
    ids = np.append(0, rng.choice(2**24 - 2, count, replace=False) + 1)
    categories = np.append(255, rng.integers(0, len(NAMES), count))
    colors = np.stack([ids[cells] % 256, ids[cells] // 256 % 256, ids[cells] // 65536], -1)
    images = {
        "file_name": rng.integers(0, 256, (height, width, 3)),
        "pan_seg_file_name": colors,
        "sem_seg_file_name": categories[cells],
    }
    for key, values in images.items():
        Image.fromarray(values.astype(np.uint8)).save(tmp_path / f"{key}.png")
    segments = [
        {"id": int(i), "category_id": int(c), "iscrowd": int(n == 3)}
        for n, (i, c) in enumerate(zip(ids[1:], categories[1:]))
    ]
    names = {key: str(tmp_path / f"{key}.png") for key in images}
    return {**names, "segments_info": segments, "height": height, "width": width, "image_id": 0}


@pytest.mark.parametrize("backend", [pytest.param("cpu", marks=pytest.mark.ext), "torch"])
@pytest.mark.parametrize("name", ["lsj", "resize_crop"])
def test_the_same_inputs(name, backend, record):
    ours, theirs = recipes(name)
    tasks, with_targets = set(), 0
    for seed in range(24):
        outputs = []
        for mapper in (ours, theirs):
            random.seed(seed)
            np.random.seed(seed)
            with use_backend(backend):
                outputs.append(mapper(dict(record)))
        mine, other = outputs
        assert mine["task"] == other["task"]
        assert torch.equal(mine["image"], other["image"])
        assert torch.equal(mine["instances"].gt_classes, other["instances"].gt_classes)
        assert torch.equal(mine["instances"].gt_masks.tensor, other["instances"].gt_masks)
        assert torch.equal(mine["sem_seg"].long(), other["sem_seg"])
        assert mine["text"] == other["text"]
        assert torch.equal(mine["text_tokens"][mine["text_index"]], other["tokens"])
        tasks.add(mine["task"])
        with_targets += len(mine["instances"]) > 0
    assert tasks == {"semantic", "instance", "panoptic"} and with_targets > 16

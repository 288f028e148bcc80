"""The mapper against the official mappers' outputs on one synthetic sample (without augmentation)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from oneformer.data.augmentation import PadToMultiple
from oneformer.data.mapper import OneFormerMapper
from oneformer.tasks import TASK_SENTENCE
from segcore.data.builtin import register_builtin

NAMES = [
    f"{kind}_{task}{suffix}"
    for kind, suffixes in (("unified_noaug", ("", "_numtext3")), ("cocolsj_noaug", ("",)))
    for task in ("panoptic", "instance", "semantic")
    for suffix in suffixes
]
TRAIN_SET = {"unified": "ade20k_panoptic_train", "cocolsj": "coco_2017_train_panoptic_with_sem_seg"}


def sample(folder: Path) -> dict:
    return {
        "file_name": str(folder / "image.png"),
        "image_id": "synth",
        "pan_seg_file_name": str(folder / "pan.png"),
        "sem_seg_file_name": str(folder / "sem.png"),
        "segments_info": json.loads((folder / "segments.json").read_text()),
    }


@pytest.mark.parametrize("name", NAMES)
def test_golden(name, spec_dir):
    from detectron2.data import MetadataCatalog

    register_builtin()
    folder = spec_dir / "oneformer/golden/mapper"
    golden = dict(np.load(folder / f"{name}.npz"))
    metadata = MetadataCatalog.get(TRAIN_SET[name.split("_")[0]])
    extra = json.loads(str(golden["extra"]))
    texts = json.loads(str(golden["text"]))
    pad = extra.get("SIZE_DIVISIBILITY", -1)
    task = name.split("_")[2]
    mapper = OneFormerMapper(
        is_train=True,
        augmentations=[PadToMultiple(pad)] if pad > 0 else [],
        class_names=metadata.stuff_classes,
        thing_ids=sorted(metadata.thing_dataset_id_to_contiguous_id.values()),
        ignore_label=metadata.ignore_label,
        task_prob={task: 1.0},
        num_texts=len(texts),
    )
    output = mapper(sample(folder))

    assert set(json.loads(str(golden["keys"]))) == set(output) - {"text_tokens", "text_index"}
    assert output["task"] == task
    assert str(golden["task"]) == TASK_SENTENCE.format(task)
    assert output["text"] == texts
    assert output["orig_shape"] == tuple(golden["orig_shape"])
    assert (output["height"], output["width"]) == (golden["height"], golden["width"])
    assert output["thing_ids"] == golden["thing_ids"].tolist()
    same(output["image"], golden["image"])
    same(output["sem_seg"], golden["sem_seg"])
    same(output["instances"].gt_classes, golden["classes"])
    masks = np.unpackbits(golden["masks_packed"], axis=-1)[..., : golden["masks_shape"][-1]]
    same(output["instances"].gt_masks, masks.astype(bool))
    assert str(output["instances"].gt_masks.dtype) == str(golden["masks_dtype"])


def same(tensor, array):
    assert tuple(tensor.shape) == array.shape
    assert (tensor.numpy() == array).all()

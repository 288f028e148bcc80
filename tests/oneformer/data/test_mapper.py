"""The mapper on a small scene of our own: targets against a loop over segments, errors, determinism."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from PIL import Image

from oneformer import add_oneformer_config
from oneformer.data.augmentation import ResizeShortestEdge, build_recipe
from oneformer.data.mapper import OneFormerMapper
from oneformer.data.targets import make_targets
from oneformer.data.tokenizer import Tokenizer
from oneformer.tasks import TASKS
from segcore.data import build_test_loader, register_panoptic
from segcore.engine import Trainer

CLASS_NAMES = ["sky", "grass", "ball", "box"]
THING_IDS = [2, 3]
SEGMENTS = [
    {"id": 70000, "category_id": 3, "iscrowd": 0},
    {"id": 1, "category_id": 0, "iscrowd": 0},
    {"id": 256, "category_id": 1, "iscrowd": 0},
    {"id": 300, "category_id": 2, "iscrowd": 0},
    {"id": 301, "category_id": 2, "iscrowd": 0},
    {"id": 302, "category_id": 2, "iscrowd": 1},
    {"id": 500, "category_id": 1, "iscrowd": 0},  # a second patch of grass
    {"id": 999, "category_id": 3, "iscrowd": 0},  # without a pixel
]


def scene_ids(height=40, width=60):
    ids = np.zeros((height, width), np.int32)
    ids[: height // 2] = 1
    ids[height // 2 : -2] = 256
    ids[5:15, 10:20], ids[8:18, 25:33], ids[22:30, 40:55] = 300, 301, 302
    ids[20:36, 3:12], ids[2:6, 50:] = 70000, 500
    return ids


def write_png(path, ids):
    Image.fromarray(np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8)).save(path)


@pytest.fixture
def record(tmp_path):
    ids = scene_ids()
    pixels = np.random.default_rng(0).integers(0, 256, (*ids.shape, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    write_png(tmp_path / "pan.png", ids)
    return {
        "file_name": str(tmp_path / "image.png"),
        "pan_seg_file_name": str(tmp_path / "pan.png"),
        "image_id": 7,
        "segments_info": [dict(s) for s in SEGMENTS],
    }


def make_mapper(task="panoptic", **changes):
    arguments = {
        "is_train": True,
        "augmentations": [],
        "class_names": CLASS_NAMES,
        "thing_ids": THING_IDS,
        "task_prob": {task: 1.0},
        "num_texts": 9,
    }
    return OneFormerMapper(**{**arguments, **changes})


def targets_by_loop(ids, task):
    """The rules, read segment by segment."""
    classes, masks = [], []
    for s in SEGMENTS:
        mask = ids == s["id"]
        if s["iscrowd"] or not mask.any() or (task == "instance" and s["category_id"] not in THING_IDS):
            continue
        if task == "semantic" and s["category_id"] in classes:
            masks[classes.index(s["category_id"])] |= mask
            continue
        classes.append(s["category_id"])
        masks.append(mask)
    sem_seg = np.full(ids.shape, 255)
    for c, mask in zip(classes, masks):
        sem_seg[mask] = c
    return classes, np.array(masks).reshape(-1, *ids.shape), sem_seg


@pytest.mark.parametrize("task", TASKS)
def test_targets_equal_a_loop_over_segments(record, task):
    output = make_mapper(task)(record)
    classes, masks, sem_seg = targets_by_loop(scene_ids(), task)
    assert output["instances"].gt_classes.tolist() == classes
    assert (output["instances"].gt_masks.numpy() == masks).all()
    assert (output["sem_seg"].numpy() == sem_seg).all()
    assert output["task"] == task


def test_tokens_are_those_of_the_texts(record):
    output = make_mapper()(record)
    tokens = Tokenizer()(output["text"])
    assert torch.equal(output["text_tokens"][output["text_index"]], tokens)
    # sky, grass, ball, box and the padding
    assert output["text_tokens"].shape == (5, 77)


def test_input_dict_is_left_alone(record):
    before = {**record, "segments_info": [dict(s) for s in record["segments_info"]]}
    make_mapper()(record)
    assert record == before


def test_image_without_segments_gives_no_targets(record):
    write_png(record["pan_seg_file_name"], np.zeros((40, 60), np.int32))
    record["segments_info"] = []
    for task in TASKS:
        output = make_mapper(task)(record)
        assert output["instances"].gt_masks.shape == (0, 40, 60)
        assert output["instances"].gt_classes.dtype == torch.int64
        assert (output["sem_seg"] == 255).all()
        assert output["text_tokens"].shape == (1, 77)


def test_more_than_255_segments(record):
    ids = np.arange(1, 40 * 60 + 1, dtype=np.int32).reshape(40, 60) // 8 * 7 + 1
    write_png(record["pan_seg_file_name"], ids)
    listed = np.unique(ids)
    record["segments_info"] = [{"id": int(i), "category_id": 2, "iscrowd": 0} for i in listed]
    resize = [ResizeShortestEdge([80], 1000, "choice")]
    for augmentations in ([], resize):
        output = make_mapper("instance", augmentations=augmentations)(record)
        scale = 2 if augmentations else 1
        masks = output["instances"].gt_masks
        assert len(masks) == len(listed) > 255
        assert masks.sum(0).eq(1).all()
        expected = (ids[None] == listed[:, None, None]).repeat(scale, 1).repeat(scale, 2)
        assert (masks.numpy() == expected).all()


def test_targets_of_255_segments_do_not_wrap():
    indices = np.arange(256, dtype=np.uint8).reshape(16, 16)
    segments = [{"category_id": 2, "iscrowd": 0}] * 255
    targets = make_targets(indices, segments, "panoptic", [2], 255)
    assert len(targets.classes) == 255
    assert targets.masks.sum() == 255
    assert not targets.masks[:, 0, 0].any()


def config(**changes):
    cfg = get_cfg()
    add_oneformer_config(cfg)
    cfg.MODEL.ONE_FORMER.NUM_OBJECT_QUERIES, cfg.MODEL.TEXT_ENCODER.N_CTX = 12, 2
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 4
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (32, 48), 200
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "choice"
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 20, 100
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = True, "absolute", [32, 32]
    cfg.INPUT.COLOR_AUG_SSD, cfg.INPUT.SIZE_DIVISIBILITY, cfg.INPUT.IMAGE_SIZE = True, 32, 64
    cfg.DATALOADER.NUM_WORKERS, cfg.SOLVER.IMS_PER_BATCH = 0, 2
    for key, value in changes.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


@pytest.fixture
def registered(record, tmp_path):
    """The scene as a data set in COCO panoptic format; yields its name."""
    import json

    categories = [
        {"id": 10 + i, "name": n, "isthing": int(i in THING_IDS)} for i, n in enumerate(CLASS_NAMES)
    ]
    segments = [{**s, "category_id": s["category_id"] + 10} for s in SEGMENTS]
    content = {
        "images": [{"id": 7, "file_name": "image.png", "height": 40, "width": 60}],
        "annotations": [{"image_id": 7, "file_name": "pan.png", "segments_info": segments}],
        "categories": categories,
    }
    (tmp_path / "pan.json").write_text(json.dumps(content))
    name = "mapper_test_scene"
    register_panoptic(
        name,
        image_root=str(tmp_path),
        panoptic_root=str(tmp_path),
        panoptic_json=str(tmp_path / "pan.json"),
    )
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@pytest.mark.parametrize("recipe", ["resize_crop", "lsj"])
def test_loader_from_config(registered, recipe):
    cfg = config(DATASETS__TRAIN=(registered,), INPUT__RECIPE=recipe)
    side = 64 if recipe == "lsj" else 32
    batches = []
    for _ in range(2):
        np.random.seed(3)
        random.seed(3)
        torch.manual_seed(3)
        batches.append(next(iter(Trainer.build_train_loader(cfg))))
    first, again = batches
    assert len(first) == 2
    for item, same in zip(first, again):
        assert item["image"].shape == (3, side, side)
        assert item["instances"].gt_masks.shape[1:] == (side, side)
        assert len(item["text"]) == 10
        assert torch.equal(item["image"], same["image"])
        assert item["task"] == same["task"]
        assert torch.equal(item["instances"].gt_masks, same["instances"].gt_masks)


@pytest.mark.parametrize("recipe", ["resize_crop", "lsj"])
@pytest.mark.parametrize("seed", range(4))
def test_augmenting_the_index_map_equals_augmenting_the_png(record, registered, recipe, seed):
    """The official mappers resize, crop and flip the RGB PNG, and decode it afterwards."""
    cfg = config(DATASETS__TRAIN=(registered,), INPUT__RECIPE=recipe)
    mapper = OneFormerMapper(cfg, True)
    np.random.seed(seed)
    random.seed(seed)
    output = mapper(record)
    np.random.seed(seed)
    random.seed(seed)
    png = np.asarray(Image.open(record["pan_seg_file_name"]))
    augmented = T.AugInput(np.asarray(Image.open(record["file_name"])), sem_seg=png)
    T.AugmentationList(build_recipe(cfg))(augmented)
    ids = augmented.sem_seg.astype(int) @ [1, 256, 65536]
    classes, masks, sem_seg = targets_by_loop(ids, mapper._draw_task())
    assert (output["image"].numpy() == augmented.image.transpose(2, 0, 1)).all()
    assert output["instances"].gt_classes.tolist() == classes
    assert (output["instances"].gt_masks.numpy() == masks).all()
    assert (output["sem_seg"].numpy() == sem_seg).all()


def test_workers_draw_different_numbers(registered):
    cfg = config(DATASETS__TRAIN=(registered,), DATALOADER__NUM_WORKERS=2, SOLVER__IMS_PER_BATCH=1)
    torch.manual_seed(0)
    loader = iter(Trainer.build_train_loader(cfg))
    images = [next(loader)[0]["image"] for _ in range(4)]
    assert not any(torch.equal(a, b) for i, a in enumerate(images) for b in images[:i])


def test_test_loader_keeps_what_evaluators_need(registered):
    (batch,) = build_test_loader(config(DATASETS__TRAIN=(registered,)), registered)
    (item,) = batch
    assert item["image"].shape == (3, 20, 30)
    assert (item["height"], item["width"], item["task"], item["image_id"]) == (40, 60, "all", 7)
    assert item["pan_seg_file_name"].endswith("pan.png")
    assert [s["category_id"] for s in item["segments_info"]] == [s["category_id"] for s in SEGMENTS]


def test_task_shares_follow_the_probabilities(record):
    mapper = make_mapper(task_prob={"panoptic": 0.5, "instance": 0.2, "semantic": 0.3})
    np.random.seed(0)
    draws = [mapper._draw_task() for _ in range(4000)]
    for task, share in (("panoptic", 0.5), ("instance", 0.2), ("semantic", 0.3)):
        assert abs(draws.count(task) / 4000 - share) < 4 * (share * (1 - share) / 4000) ** 0.5


def test_draw_order_is_semantic_instance_panoptic(monkeypatch):
    mapper = make_mapper(task_prob={"panoptic": 0.5, "instance": 0.2, "semantic": 0.3})
    for draw, task in (
        (0.0, "semantic"),
        (0.29, "semantic"),
        (0.31, "instance"),
        (0.51, "panoptic"),
        (1.0, "panoptic"),
    ):
        monkeypatch.setattr(np.random, "uniform", lambda low, high, draw=draw: draw)
        assert mapper._draw_task() == task


@pytest.mark.parametrize(
    "probabilities",
    [{"panoptic": 0.5, "semantic": 0.4}, {"panoptic": 1.5, "semantic": -0.5}, {"depth": 1.0}, {}],
)
def test_probabilities_must_sum_to_one(probabilities):
    with pytest.raises(ValueError, match="TASK_PROB"):
        make_mapper(task_prob=probabilities)


def test_more_contextual_tokens_than_queries():
    with pytest.raises(ValueError, match="N_CTX"):
        make_mapper(num_texts=-15)


def test_png_with_unknown_ids(record):
    record["segments_info"] = record["segments_info"][1:]
    with pytest.raises(ValueError, match=r"pan\.png.*70000"):
        make_mapper()(record)


@pytest.mark.parametrize("which", ["file_name", "pan_seg_file_name"])
def test_missing_and_damaged_files(record, which):
    with open(record[which], "rb") as file:
        content = file.read()
    for damaged in (content[: len(content) // 2], b"not a picture", b""):
        with open(record[which], "wb") as file:
            file.write(damaged)
        with pytest.raises(ValueError, match=f"cannot read .*{record[which]}"):
            make_mapper()(record)
    record[which] += ".gone"
    with pytest.raises(FileNotFoundError, match="gone does not exist"):
        make_mapper()(record)


def test_truncated_jpeg(record, tmp_path):
    path = tmp_path / "image.jpg"
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="cannot read the image"):
        make_mapper()({**record, "file_name": str(path)})


def test_png_of_one_channel(record):
    Image.fromarray(scene_ids().astype(np.uint8)).save(record["pan_seg_file_name"])
    with pytest.raises(ValueError, match="mode L"):
        make_mapper()(record)


def test_sizes_that_do_not_fit(record):
    with pytest.raises(ValueError, match=r"40x60.*its annotation says 41x60"):
        make_mapper()({**record, "height": 41, "width": 60})
    write_png(record["pan_seg_file_name"], scene_ids(40, 59))
    with pytest.raises(ValueError, match=r"40x59.*40x60"):
        make_mapper()(record)


def test_training_needs_panoptic_labels(record):
    del record["pan_seg_file_name"]
    with pytest.raises(ValueError, match="has no pan_seg_file_name"):
        make_mapper()(record)


@pytest.mark.parametrize("size", [(1, 1), (5000, 33), (1, 700)])
@pytest.mark.parametrize("recipe", ["resize_crop", "lsj"])
def test_odd_sizes(record, registered, recipe, size):
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(record["file_name"])
    write_png(record["pan_seg_file_name"], np.full(size, 1, np.int32))
    cfg = config(DATASETS__TRAIN=(registered,), INPUT__RECIPE=recipe, INPUT__IMAGE_SIZE=8)
    side = 8 if recipe == "lsj" else 32
    output = OneFormerMapper(cfg, True)(record)
    assert output["image"].shape[1:] == output["instances"].image_size
    assert max(output["image"].shape[1:]) <= side
    assert OneFormerMapper(cfg, False)(record)["image"].numel() >= 3


def test_unknown_names(registered):
    for key, value in (("INPUT__RECIPE", "none"), ("INPUT__DATASET_MAPPER_NAME", "none")):
        with pytest.raises(ValueError, match="'none'"):
            Trainer.build_train_loader(config(DATASETS__TRAIN=(registered,), **{key: value}))
    with pytest.raises(ValueError, match="'nowhere' is not registered"):
        build_test_loader(config(DATASETS__TRAIN=(registered,)), "nowhere")


def test_the_number_of_classes_is_checked(registered):
    with pytest.raises(ValueError, match="NUM_CLASSES is 150, but mapper_test_scene has 4"):
        OneFormerMapper(config(DATASETS__TRAIN=(registered,), MODEL__SEM_SEG_HEAD__NUM_CLASSES=150), True)

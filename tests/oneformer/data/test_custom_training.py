"""One's own data from a YAML alone: trained, evaluated and looked at, each kind of label and all in one run."""

from __future__ import annotations

import json
import uuid

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from oneformer.config import add_oneformer_config
from oneformer.data.inspect import text_counts
from oneformer.data.mapper import OneFormerMapper
from segcore.data import inspect
from segcore.engine import ConfigError, Trainer, argument_parser, build_config
from segcore.engine.replay import ReplayBatchSampler
from tests.segcore.data import samples

WRITERS = {
    "panoptic": samples.write_panoptic,
    "semantic": samples.write_semantic,
    "instances": samples.write_instance_json,
    "masks": samples.write_masks,
}
METRICS = {"panoptic": {"panoptic_seg", "segm", "sem_seg"}, "semantic": {"sem_seg"}}

MODEL = {
    "META_ARCHITECTURE": "OneFormer",
    "DEVICE": "cpu",
    "BACKBONE": {"NAME": "timm:regnetx_002", "FREEZE_AT": 0},
    "PIXEL_MEAN": [123.675, 116.28, 103.53],
    "PIXEL_STD": [58.395, 57.12, 57.375],
    "SEM_SEG_HEAD": {
        "NUM_CLASSES": 0,
        "CONVS_DIM": 64,
        "MASK_DIM": 64,
        "TRANSFORMER_ENC_LAYERS": 1,
        "TRANSFORMER_ENC_DIM_FEEDFORWARD": 64,
    },
    "ONE_FORMER": {
        "HIDDEN_DIM": 64,
        "DIM_FEEDFORWARD": 64,
        "NUM_OBJECT_QUERIES": 12,
        "DEC_LAYERS": 2,
        "TRAIN_NUM_POINTS": 64,
    },
    "TEXT_ENCODER": {"WIDTH": 64, "NUM_LAYERS": 1, "N_CTX": 4},
}


def write_config(root, *kinds, **datasets):
    """A YAML with a data set of each kind, used for training and test; paths as relative ones."""
    specs = []
    for kind in kinds:
        arguments = WRITERS[kind](root / kind, 2)
        relative = {
            key: str(root.joinpath(value).relative_to(root)) if isinstance(value, str) and "/" in value else value
            for key, value in arguments.items()
        }
        name = f"{kind}_{uuid.uuid4().hex}"
        specs.append({"name": name, "kind": "instances" if kind == "masks" else kind, **relative})
    names = [spec["name"] for spec in specs]
    content = {
        "MODEL": MODEL,
        "DATASETS": {"CUSTOM": specs, "TRAIN": names, "TEST": names, **datasets},
        "SOLVER": {"IMS_PER_BATCH": 2, "MAX_ITER": 2, "AMP": {"ENABLED": False}},
        "INPUT": {
            "MIN_SIZE_TRAIN": [32],
            "MIN_SIZE_TEST": 32,
            "CROP": {"ENABLED": False},
            "DATASET_MAPPER_NAME": "oneformer_panoptic",
        },
        "TEST": {"DETECTIONS_PER_IMAGE": 5},
        "DATALOADER": {"NUM_WORKERS": 0},
        "OUTPUT_WRITERS": ["json"],
        "OUTPUT_DIR": str(root / "output"),
        "SEED": 1,
    }
    path = root / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path, names


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def build(path, *options):
    args = argument_parser().parse_args(["--config-file", str(path), *options])
    return build_config(args, [add_oneformer_config])


def train(cfg):
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    return trainer.train()


@pytest.mark.parametrize("kind", ["semantic", "masks"])
def test_one_kind_of_label_trains_and_measures_its_task(root, kind):
    path, _ = write_config(root, kind)
    cfg = build(path)
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == {"semantic": 3, "masks": 1}[kind]
    assert set(train(cfg)) == METRICS.get(kind, {"segm"})


def test_all_kinds_in_one_run(root):
    path, names = write_config(root, "panoptic", "semantic", "instances", TRAIN_WEIGHTS=[2, 1, 1])
    cfg = build(path)
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 4  # sky, grass, ball, and the annotations' box
    results = train(cfg)
    assert [set(results[name]) for name in names] == [METRICS["panoptic"], METRICS["semantic"], {"segm"}]
    assert {key for key in results[names[2]]["segm"] if "-" in key} == {"AP-box", "AP-ball"}
    line = json.loads((root / "output" / "metrics.json").read_text().splitlines()[0])
    assert np.isfinite(line["total_loss"])


def test_each_label_is_drawn_for_tasks_it_can_train(root):
    path, _ = write_config(root, "semantic", "instances", "panoptic")
    drawn = {}
    loader = iter(Trainer.build_train_loader(build(path)))
    for sample in (sample for _ in range(40) for sample in next(loader)):
        kind = next(kind for kind in WRITERS if f"/{kind}/" in sample["file_name"])
        drawn.setdefault(kind, set()).add(sample["task"])
        assert not {"annotations", "label_classes", "tasks"} & sample.keys()
    assert drawn == {
        "semantic": {"semantic"},
        "instances": {"instance"},
        "panoptic": {"panoptic", "instance", "semantic"},
    }


def test_overlapping_instances_are_whole_targets(root):
    path, _names = write_config(root, "instances")
    content = json.loads((root / "instances" / "instances.json").read_text())
    square = [10, 10, 40, 10, 40, 30, 10, 30]
    for annotation in content["annotations"]:
        annotation["segmentation"] = [square]
    (root / "instances" / "instances.json").write_text(json.dumps(content))
    sample = next(iter(Trainer.build_train_loader(build(path))))[0]
    first, second = sample["instances"].gt_masks
    assert sample["task"] == "instance" and torch.equal(first, second) and int(first.sum()) == 30 * 20
    assert sample["text"][:2] == ["a photo with a box", "a photo with a ball"]


def test_the_task_without_probability_is_an_error(root):
    path, names = write_config(root, "semantic")
    options = ["INPUT.TASK_PROB.SEMANTIC", "0.0", "INPUT.TASK_PROB.PANOPTIC", "1.0", "INPUT.TASK_PROB.INSTANCE", "0.0"]
    with pytest.raises(ConfigError, match=f"{names[0]} train semantic, which INPUT.TASK_PROB gives no probability"):
        build(path, *options)
    mapper = OneFormerMapper(
        is_train=True, augmentations=[], class_names=["a"], task_prob={"panoptic": 1.0}, num_texts=4
    )
    with pytest.raises(ValueError, match="serve the tasks semantic alone"):
        mapper._draw_task(("semantic",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["DATASETS.TRAIN_WEIGHTS", "[1, 2]"], "a number >= 0 for each of DATASETS.TRAIN"),
        (["DATASETS.CHECK_LABELS", "maybe"], "expected one of on_use, stop, skip"),
        (["TEST.TASKS", "['instance']"], "measure semantic, TEST.TASKS asks for instance"),
    ],
)
def test_wrong_settings(root, options, message):
    path, _ = write_config(root, "semantic")
    with pytest.raises(ConfigError, match=message):
        build(path, *options)


def test_weights_decide_how_often_a_source_is_drawn():
    sampler = ReplayBatchSampler(10, 4, 0, sources=[0] * 8 + [1] * 2, weights=[1.0, 3.0])
    stream = iter(sampler)
    drawn = [sample.index for _ in range(500) for sample in next(stream)]
    counts = np.bincount(drawn, minlength=10)
    assert abs(counts[8:].sum() / 2000 - 0.75) < 4 * (0.75 * 0.25 / 2000) ** 0.5  # four standard errors
    assert np.ptp(counts[8:]) <= 1 and np.ptp(counts[:8]) <= 1  # each source in whole passes
    sampler.start_at(300, 0)
    later = iter(sampler)
    assert [sample.index for _ in range(200) for sample in next(later)] == drawn[1200:]


def test_looking_at_samples(root, capsys):
    path, _names = write_config(root, "semantic", "instances")
    assert inspect.main([str(path), "--output", str(root / "seen"), "--count", "3", "SEED", "2"]) == 0
    pictures = sorted((root / "seen").iterdir())
    assert len(pictures) == 3 and Image.open(pictures[0]).size[0] > 600
    assert "a photo" in text_counts(["a photo", "a photo"])[0]
    out = capsys.readouterr().out
    assert out.count("32x48") == 3 and ("ball" in out)


def test_checking_labels(root, capsys):
    path, names = write_config(root, "semantic")
    assert inspect.main([str(path), "--check"]) == 0
    Image.fromarray(np.full((5, 5), 77, np.uint8)).save(root / "semantic" / "labels" / "01.png")
    assert inspect.main([str(path), "--check"]) == 1
    assert f"{names[0]}: 2 labels read, 1 are bad" in capsys.readouterr().out
    assert inspect.main([str(path), "DATASETS.TRIAN", "x"]) == 2
    assert "unknown config key" in capsys.readouterr().err
    assert inspect.main([str(path), "MODEL.META_ARCHITECTURE", "GeneralizedRCNN"]) == 2
    assert "samples can be drawn for OneFormer, SegGPT" in capsys.readouterr().err

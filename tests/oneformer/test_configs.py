"""The released configs: all there, all plain, with the settings and backbones of the official ones."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.config import get_cfg

from oneformer.config import add_oneformer_config
from oneformer.modeling.backbone import build_oneformer_backbone

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# Per config, number and `digest` of the backbone's tensors; written by running this file as a script.
DIGESTS = Path(__file__).parent / "golden" / "backbone_keys.json"

# official leaf config -> ours
NAMES = {
    "ade20k/convnext/oneformer_convnext_large_bs16_160k": "ade20k/oneformer_convnext_l",
    "ade20k/convnext/oneformer_convnext_xlarge_bs16_160k": "ade20k/oneformer_convnext_xl",
    "ade20k/dinat/coco_pretrain_oneformer_dinat_large_bs16_160k_1280x1280":
        "ade20k/oneformer_dinat_l_1280_from_coco",
    "ade20k/dinat/oneformer_dinat_large_bs16_160k": "ade20k/oneformer_dinat_l",
    "ade20k/dinat/oneformer_dinat_large_bs16_160k_1280x1280": "ade20k/oneformer_dinat_l_1280",
    "ade20k/dinat/oneformer_dinat_large_bs16_160k_896x896": "ade20k/oneformer_dinat_l_896",
    "ade20k/oneformer_R50_bs16_160k": "ade20k/oneformer_r50",
    "ade20k/swin/oneformer_swin_large_bs16_160k": "ade20k/oneformer_swin_l",
    "ade20k/swin/oneformer_swin_large_bs16_160k_1280x1280": "ade20k/oneformer_swin_l_1280",
    "ade20k/swin/oneformer_swin_large_bs16_160k_896x896": "ade20k/oneformer_swin_l_896",
    "ade20k/swin/oneformer_swin_tiny_bs16_160k": "ade20k/oneformer_swin_t",
    "cityscapes/convnext/mapillary_pretrain_oneformer_convnext_large_bs16_90k":
        "cityscapes/oneformer_convnext_l_from_mapillary",
    "cityscapes/convnext/mapillary_pretrain_oneformer_convnext_xlarge_bs16_90k":
        "cityscapes/oneformer_convnext_xl_from_mapillary",
    "cityscapes/convnext/oneformer_convnext_large_bs16_90k": "cityscapes/oneformer_convnext_l",
    "cityscapes/convnext/oneformer_convnext_xlarge_bs16_90k": "cityscapes/oneformer_convnext_xl",
    "cityscapes/dinat/oneformer_dinat_large_bs16_90k": "cityscapes/oneformer_dinat_l",
    "cityscapes/oneformer_R50_bs16_90k": "cityscapes/oneformer_r50",
    "cityscapes/swin/oneformer_swin_large_bs16_90k": "cityscapes/oneformer_swin_l",
    "coco/dinat/oneformer_dinat_large_bs16_100ep": "coco/oneformer_dinat_l",
    "coco/oneformer_R50_bs16_50ep": "coco/oneformer_r50",
    "coco/swin/oneformer_swin_large_bs16_100ep": "coco/oneformer_swin_l",
    "coco/swin/oneformer_swin_tiny_bs16_50ep": "coco/oneformer_swin_t",
    "mapillary_vistas/convnext/cityscapes_pretrain_oneformer_convnext_large_bs16_300k":
        "mapillary/oneformer_convnext_l_from_cityscapes",
    "mapillary_vistas/convnext/cityscapes_pretrain_oneformer_convnext_xlarge_bs16_300k":
        "mapillary/oneformer_convnext_xl_from_cityscapes",
    "mapillary_vistas/convnext/oneformer_convnext_large_bs16_300k": "mapillary/oneformer_convnext_l",
    "mapillary_vistas/dinat/oneformer_dinat_large_bs16_300k": "mapillary/oneformer_dinat_l",
    "mapillary_vistas/oneformer_R50_bs16_300k": "mapillary/oneformer_r50",
    "mapillary_vistas/swin/oneformer_swin_large_bs16_300k": "mapillary/oneformer_swin_l",
}  # fmt: skip


def load(name: str):
    cfg = get_cfg()
    add_oneformer_config(cfg)
    cfg.merge_from_file(str(CONFIGS / f"{name}.yaml"))
    return cfg


def backbone_tensors(name: str) -> dict[str, tuple[list[int], str]]:
    with torch.device("meta"):
        backbone = build_oneformer_backbone(load(name))
    return {
        f"backbone.{key}": (list(value.shape), str(value.dtype).removeprefix("torch."))
        for key, value in backbone.state_dict().items()
    }


def digest(tensors: dict[str, tuple[list[int], str]]) -> str:
    lines = [f"{key} {shape} {dtype}" for key, (shape, dtype) in sorted(tensors.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_nothing_missing_and_nothing_else():
    folders = ("ade20k", "cityscapes", "coco", "mapillary")
    files = {f"{f}/{path.stem}" for f in folders for path in (CONFIGS / f).glob("oneformer_*.yaml")}
    assert files == set(NAMES.values())
    assert len(files) == 28


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: str(p.relative_to(CONFIGS)))
def test_plain_yaml_without_repeated_keys(path):
    class Strict(yaml.SafeLoader):  # refuses tags such as !!python/...; YAML's own rule on repeats is lax
        def construct_mapping(self, node, deep=False):
            keys = [self.construct_object(key) for key, _ in node.value]
            assert len(keys) == len(set(keys)), f"{path}: a key twice among {keys}"
            return super().construct_mapping(node, deep)

    assert isinstance(yaml.load(path.read_text(encoding="utf-8"), Strict), dict)


@pytest.mark.parametrize("name", NAMES.values())
def test_backbone_keys(name):
    tensors = backbone_tensors(name)
    assert [len(tensors), digest(tensors)] == json.loads(DIGESTS.read_text())[name]


@pytest.mark.parametrize("official", NAMES)
def test_digest_is_the_manifests(official, spec_dir):
    path = spec_dir / "oneformer" / "manifests" / f"{official.replace('/', '__')}.json"
    manifest = json.loads(path.read_text())
    dtypes = manifest["dtypes_non_float32"]
    expected = {
        key: (shape, dtypes.get(key, "float32"))
        for key, shape in manifest["state_dict"].items()
        if key.startswith("backbone.")
    }
    # test_backbone_keys compares ours with the same digest
    assert [len(expected), digest(expected)] == json.loads(DIGESTS.read_text())[NAMES[official]]


def official_settings(spec_dir) -> dict[str, dict[str, str]]:
    """The table of effective settings in the specification, one dict of texts per official config."""
    lines = (spec_dir / "oneformer" / "README.md").read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| config | classes |"))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:]]
    return {row[0]: dict(zip(rows[0], row)) for row in rows[2:] if row[0] in NAMES}


@pytest.mark.parametrize("official", NAMES)
def test_settings_of_the_official_config(official, spec_dir):
    row, cfg = official_settings(spec_dir)[official], load(NAMES[official])
    model, test = cfg.MODEL, cfg.MODEL.TEST
    assert model.META_ARCHITECTURE == "OneFormer"
    assert model.BACKBONE.FREEZE_AT == 0
    assert model.PIXEL_MEAN == [123.675, 116.28, 103.53] and model.PIXEL_STD == [58.395, 57.12, 57.375]
    assert cfg.INPUT.FORMAT == "RGB"
    ours = {
        "classes": str(model.SEM_SEG_HEAD.NUM_CLASSES),
        "queries": str(model.ONE_FORMER.NUM_OBJECT_QUERIES),
        "texts": str(model.ONE_FORMER.NUM_OBJECT_QUERIES - model.TEXT_ENCODER.N_CTX),
        "topk": str(cfg.TEST.DETECTIONS_PER_IMAGE),
        "test short/max": f"{cfg.INPUT.MIN_SIZE_TEST}/{cfg.INPUT.MAX_SIZE_TEST}",
        "obj/overlap thr": f"{test.OBJECT_MASK_THRESHOLD}/{test.OVERLAP_THRESHOLD}",
        "iters": str(cfg.SOLVER.MAX_ITER),
        "AMP": str(cfg.SOLVER.AMP.ENABLED),
        "R50 norm": model.RESNETS.NORM if "R50" in official else "-",
    }
    assert ours == {key: row[key] for key in ours}
    assert training_augmentation(cfg) == row["train aug"]


def training_augmentation(cfg) -> str:
    """In the words of the specification's table."""
    c = cfg.INPUT
    if c.RECIPE == "lsj":
        return f"LSJ {c.IMAGE_SIZE} [{c.MIN_SCALE},{c.MAX_SCALE}]"
    assert c.RECIPE == "resize_crop" and c.CROP.ENABLED and c.CROP.TYPE == "absolute"
    assert c.MIN_SIZE_TRAIN_SAMPLING == "choice"
    base = 2 * c.MIN_SIZE_TRAIN[0]
    # half to double in tenths, cut to integers in floating point as upstream does
    assert list(c.MIN_SIZE_TRAIN) == [int(tenths * 0.1 * base) for tenths in range(5, 21)]
    return (
        f"short {c.MIN_SIZE_TRAIN[0]}..{c.MIN_SIZE_TRAIN[-1]} (x{len(c.MIN_SIZE_TRAIN)}), "
        f"max {c.MAX_SIZE_TRAIN}, crop {tuple(c.CROP.SIZE)}, pad {c.SIZE_DIVISIBILITY}, SSD {c.COLOR_AUG_SSD}"
    )


@pytest.mark.parametrize("official", NAMES)
def test_weights_schedule_and_tasks(official, spec_dir):
    row, cfg = official_settings(spec_dir)[official], load(NAMES[official])
    weights = cfg.MODEL.WEIGHTS.rsplit("/", 1)[-1]
    if "cityscapes_pretrain" in official:  # upstream names the ImageNet weights, against the config's title
        assert re.fullmatch(r"250_16_convnext_x?l_oneformer_cityscapes_90k\.pth", weights)
    else:
        assert weights == row["init weights"]
    solver = cfg.SOLVER
    if row["lr sched"] == "PolyLR":
        assert solver.LR_SCHEDULER_NAME == "WarmupPolyLR" and solver.POLY_LR_POWER == 0.9
    else:
        steps = re.fullmatch(r"MultiStepLR\((\d+), (\d+)\)", row["lr sched"]).groups()
        if official == "coco/swin/oneformer_swin_large_bs16_100ep":
            assert steps == ("655556", "735184")  # upstream's typo
            steps = ("655556", "710184")
        assert solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR" and solver.GAMMA == 0.1
        assert list(map(str, solver.STEPS)) == list(steps)
    assert solver.WARMUP_FACTOR == 1.0  # no warm-up
    # upstream's thresholds are cumulative; 0.5/0.5 left the instance task nothing
    probabilities = dict(cfg.INPUT.TASK_PROB)
    expected = {"0.33/0.66": (0.34, 0.33, 0.33), "0.5/0.5": (1 / 3, 1 / 3, 1 / 3)}[row["p_sem/p_inst"]]
    assert probabilities == dict(zip(("PANOPTIC", "INSTANCE", "SEMANTIC"), expected))
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", NAMES.values())
def test_common_settings(name):
    cfg = load(name)
    solver = cfg.SOLVER
    assert (solver.OPTIMIZER, solver.IMS_PER_BATCH) == ("ADAMW", 16)
    assert (solver.BASE_LR, solver.WEIGHT_DECAY, solver.BACKBONE_MULTIPLIER) == (1e-4, 0.05, 0.1)
    clip = solver.CLIP_GRADIENTS
    assert (clip.ENABLED, clip.CLIP_TYPE, clip.CLIP_VALUE, clip.NORM_TYPE) == (True, "full_model", 0.01, 2.0)
    assert {True: 30000, False: 5000}[name.startswith("mapillary")] == cfg.TEST.EVAL_PERIOD
    assert len(cfg.DATASETS.TRAIN) == len(cfg.DATASETS.TEST) == 1
    train, test = cfg.DATASETS.TRAIN[0], cfg.DATASETS.TEST[0]
    assert test == train.replace("train", "val") and test != train
    if not name.startswith("coco"):
        short = 1024 if name.startswith("mapillary") else cfg.INPUT.MIN_SIZE_TEST
        sizes = [short * quarters // 4 for quarters in range(2, 8)]
        sizes = [678 if size == 672 else size for size in sizes]  # upstream's slip at 896
        assert sizes == list(cfg.TEST.AUG.MIN_SIZES)
        assert not cfg.TEST.AUG.ENABLED


def test_data_sets_of_the_specification(spec_dir):
    known = json.loads((spec_dir / "oneformer" / "golden" / "dataset_metadata.json").read_text())
    for name in NAMES.values():
        cfg = load(name)
        metadata = known[cfg.DATASETS.TRAIN[0]]
        assert len(metadata["stuff_classes"]) == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        assert metadata["ignore_label"] == cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE


if __name__ == "__main__":
    DIGESTS.parent.mkdir(exist_ok=True)
    found = {name: backbone_tensors(name) for name in sorted(NAMES.values())}
    table = {name: [len(tensors), digest(tensors)] for name, tensors in found.items()}
    DIGESTS.write_text(json.dumps(table, indent=1) + "\n")

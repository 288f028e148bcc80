"""Download -> prepare -> check -> two steps of training -> evaluation, on every kind of split of the benchmarks."""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path

import pytest

import train_net
from segcore.data import builtin
from segcore.data.check import check_data_set
from segcore.engine import main
from tests.segcore.evaluation.benchmark_sets import INSTANCE, PANOPTIC, SEMANTIC, prepare, use_root

REPO = Path(__file__).resolve().parents[2]
CLASSES = {"ade20k": 150, "cityscapes": 19, "coco": 133, "mapillary": 65}
TINY = [
    "INPUT.MIN_SIZE_TRAIN", "[64]", "INPUT.MAX_SIZE_TRAIN", "128", "INPUT.MIN_SIZE_TEST", "64",
    "INPUT.MAX_SIZE_TEST", "128", "INPUT.CROP.SIZE", "[64,64]", "INPUT.SIZE_DIVISIBILITY", "64",
    "MODEL.BACKBONE.NAME", "timm:test_resnet", "MODEL.ONE_FORMER.HIDDEN_DIM", "32",
    "MODEL.ONE_FORMER.NUM_OBJECT_QUERIES", "24", "MODEL.ONE_FORMER.DEC_LAYERS", "2",
    "MODEL.ONE_FORMER.CLASS_DEC_LAYERS", "1", "MODEL.ONE_FORMER.DIM_FEEDFORWARD", "32",
    "MODEL.ONE_FORMER.TRAIN_NUM_POINTS", "112", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32",
    "MODEL.SEM_SEG_HEAD.MASK_DIM", "32", "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", "1",
    "MODEL.TEXT_ENCODER.WIDTH", "32", "MODEL.TEXT_ENCODER.NUM_LAYERS", "1", "MODEL.DEVICE", "cpu",
    "MODEL.TEST.OBJECT_MASK_THRESHOLD", "0.0", "TEST.DETECTIONS_PER_IMAGE", "20", "DATALOADER.NUM_WORKERS", "0",
    "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "2", "SOLVER.WARMUP_ITERS", "0", "OUTPUT_WRITERS", "[]",
]  # fmt: skip


@pytest.fixture
def root(tmp_path):
    before = builtin._chosen_root
    use_root(tmp_path / "data")
    yield tmp_path / "data"
    builtin._chosen_root = before


def train(output: Path, train_set: str, test_sets: list[str], classes: int, *settings: str) -> dict:
    """Two steps, and the metrics of every test set."""
    arguments = ["--config-file", str(REPO / "configs/facade/oneformer_compact.yaml"), "--save-predictions"]
    arguments += ["DATASETS.TRAIN", f"['{train_set}']", "DATASETS.TEST", str(test_sets), "OUTPUT_DIR", str(output)]
    arguments += ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", str(classes), *TINY, *settings]
    assert main({"OneFormer": train_net.oneformer}, arguments) == 0
    metrics = json.loads((output / "metrics_final.json").read_text())
    return metrics if len(test_sets) > 1 else {test_sets[0]: metrics}


def run(name: str, root: Path, output: Path, kinds: tuple[str, ...]) -> None:
    if name == "cityscapes":
        pytest.importorskip("cityscapesscripts")
    with contextlib.redirect_stdout(io.StringIO()):
        prepare(root, name, train=3, val=2)
    assert not any(row.is_wrong for row in check_data_set(name))
    if "panoptic" in kinds:
        tests = [PANOPTIC[name], INSTANCE[name], *([SEMANTIC[name]] if name in SEMANTIC else [])]
        metrics = train(output / "panoptic", _train_split(PANOPTIC[name]), tests, CLASSES[name])
        first = metrics[PANOPTIC[name]]
        assert set(first) == {"panoptic_seg", "segm", "sem_seg"}
        assert math.isfinite(first["panoptic_seg"]["PQ"] + first["segm"]["AP"] + first["sem_seg"]["mIoU"])
        assert metrics[INSTANCE[name]] == {"segm": first["segm"]}
        if name in SEMANTIC:
            assert metrics[SEMANTIC[name]] == {"sem_seg": first["sem_seg"]}
    if "instance" in kinds and name != "coco":
        classes = 100 if name == "ade20k" else CLASSES[name]
        metrics = train(output / "instance", _train_split(INSTANCE[name]), [INSTANCE[name]], classes)
        assert math.isfinite(metrics[INSTANCE[name]]["segm"]["AP"])
    if "semantic" in kinds and name in SEMANTIC:
        metrics = train(output / "semantic", _train_split(SEMANTIC[name]), [SEMANTIC[name]], CLASSES[name])
        assert math.isfinite(metrics[SEMANTIC[name]]["sem_seg"]["mIoU"])


def _train_split(name: str) -> str:
    return name.replace("_val", "_train", 1)


@pytest.mark.parametrize("name", sorted(PANOPTIC))
def test_panoptic_labels_train_and_every_split_measures(name, root, tmp_path):
    run(name, root, tmp_path / "output", ("panoptic",))


def test_instance_and_semantic_labels_train_alone(root, tmp_path):
    run("ade20k", root, tmp_path / "output", ("instance", "semantic"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cityscapes", "mapillary"])
def test_instance_and_semantic_labels_train_alone_elsewhere(name, root, tmp_path):
    run(name, root, tmp_path / "output", ("instance", "semantic"))

"""Training through the engine: the mini config on a few scenes learns, evaluates and tunes a prompt."""

from __future__ import annotations

import itertools
import json
import statistics

import pytest
import torch
from detectron2.utils.events import EventStorage

from segcore.checkpoint import Checkpointer
from segcore.data import builtin
from segcore.data.kinds import writer
from segcore.engine import main
from segcore.engine.setup import argument_parser, build_config
from segcore.engine.trainer import Trainer
from seggpt.commands.train import load_model
from tests.conftest import REPO

MODELS = {"SegGPT": load_model, "SegGPTTuner": load_model}
CONFIG = str(REPO / "configs/seggpt/seggpt_mini.yaml")
SMALL = [
    "MODEL.DEVICE", "cpu", "MODEL.SEGGPT.EMBED_DIM", "64", "MODEL.SEGGPT.DEPTH", "2", "MODEL.SEGGPT.NUM_HEADS", "2",
    "MODEL.SEGGPT.OUT_BLOCKS", "[0,1]", "DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "4",
    "SOLVER.AMP.ENABLED", "False", "OUTPUT_WRITERS", "['json']",
]  # fmt: skip


@pytest.fixture
def few_scenes(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "SCENES", {"train": 24, "val": 24, "seen": 1})
    kinds = (1, 30, 60, 100, 333)
    monkeypatch.setattr(writer, "_SPLITS", {split: (i, kinds) for i, split in enumerate(writer._SPLITS)})
    monkeypatch.setattr(builtin, "_chosen_root", None)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "sets"))
    return tmp_path


def loss_of_fixed_episodes(weights: str, settings: list[str]) -> float:
    """Of the weights, on the first batches of a training: the same episodes and masks at each call."""
    args = argument_parser().parse_args(["--config-file", CONFIG, *settings, "SOLVER.IMS_PER_BATCH", "16"])
    cfg = build_config(args, [load_model()])
    model = Trainer.build_model(cfg)
    if weights:
        Checkpointer(model).load(weights)
    batches = itertools.islice(Trainer.build_train_loader(cfg), 4)
    with torch.no_grad(), EventStorage():
        losses = [model(batch)["loss_inpaint"].item() for batch in batches]
    return statistics.fmean(losses)


def run(folder, *pairs: str) -> list[float]:
    """The losses that a training of the mini config logs."""
    assert main(MODELS, ["--config-file", CONFIG, "OUTPUT_DIR", str(folder), *pairs]) == 0
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [line["total_loss"] for line in lines if "total_loss" in line]


def test_it_learns_evaluates_and_tunes(few_scenes):
    episodes = ["TEST.FEW_SHOT.EPISODES", "4", "TEST.FEW_SHOT.SHOTS", "[1,2]"]
    run(
        few_scenes / "train", *SMALL, "SOLVER.MAX_ITER", "160", "SOLVER.WARMUP_ITERS", "10",
        "DATASETS.TEST", "['kinds_panoptic_val']", *episodes,
    )  # fmt: skip
    network = few_scenes / "train" / "model_final.pth"
    assert loss_of_fixed_episodes(str(network), SMALL) < 0.9 * loss_of_fixed_episodes("", SMALL)
    found = json.loads((few_scenes / "train" / "metrics_final.json").read_text())
    assert set(found) == {"1-shot", "2-shot", "no model"}
    assert found["1-shot"]["episodes"] == 4 and 0 < found["no model"]["all foreground"] < 50

    losses = run(
        few_scenes / "tune", *SMALL, "MODEL.META_ARCHITECTURE", "SegGPTTuner",
        "MODEL.SEGGPT.TUNING.NETWORK", str(network), "INPUT.DATASET_MAPPER_NAME", "seggpt_query",
        "SOLVER.MAX_ITER", "20", "SOLVER.BASE_LR", "0.1", "SOLVER.WEIGHT_DECAY", "0.0", "SOLVER.WARMUP_ITERS", "1",
        "SOLVER.EMA.ENABLED", "False", "DATASETS.TEST", "[]",
    )  # fmt: skip
    assert len(losses) == 1 and losses[0] > 0


@pytest.mark.slow
def test_the_mini_config_itself_learns(few_scenes):
    """Its own network, batches and precision, a fortieth of its steps."""
    own = ["MODEL.DEVICE", "cpu", "OUTPUT_WRITERS", "['json']"]
    run(
        few_scenes, *own, "SOLVER.MAX_ITER", "300", "TEST.FEW_SHOT.EPISODES", "20",
        "DATASETS.TEST", "['kinds_panoptic_val']",
    )  # fmt: skip
    before, after = (loss_of_fixed_episodes(w, own) for w in ("", str(few_scenes / "model_final.pth")))
    assert after < 0.75 * before
    found = json.loads((few_scenes / "metrics_final.json").read_text())
    assert {"1-shot", "4-shot", "no model"} == set(found) and found["1-shot"]["episodes"] == 20

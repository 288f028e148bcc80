"""A wrong config or command ends in one clear error."""

from __future__ import annotations

import pytest
import torch

from segcore.config import add_segcore_config
from segcore.engine import ConfigError, build_config, main
from segcore.engine.launch import check_processes
from tests.segcore.toy import arguments, toy_config


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["SOLVER.BASELR", "1"], r"in the command line: SOLVER.BASELR \(did you mean SOLVER.BASE_LR\?\)"),
        (["SOLVR.MAX_ITER", "1"], "did you mean SOLVER.MAX_ITER"),
        (["ZZZ", "1"], "unknown config key in the command line: ZZZ$"),
        (["SOLVER.MAX_ITER"], "has no value"),
        (["SOLVER.MAX_ITER", "many"], "SOLVER.MAX_ITER"),
        (["SOLVER.MAX_ITER", "0"], "SOLVER.MAX_ITER is 0; expected at least 1"),
        (["SOLVER.ACCUMULATE", "0"], "SOLVER.ACCUMULATE"),
        (["SOLVER.EMA.DECAY", "1.0"], "SOLVER.EMA.DECAY"),
        (["SOLVER.OPTIMIZER", "ADAM"], "ADAMW"),
        (["SOLVER.LR_SCHEDULER_NAME", "Poly"], "WarmupPolyLR"),
        (["SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "all"], "full_model"),
        (["SOLVER.AMP.ENABLED", "True"], "float16 trains on CUDA only"),
        (["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "fp8"], "bfloat16"),
        (["DATASETS.TRAIN", "('toy_trian',)"], "did you mean toy_train"),
        (["DATASETS.TRAIN", "()"], "nothing to train on"),
        (["DATASETS.TEST", "('nothing_like_it',)"], "DATASETS.TEST names 'nothing_like_it'"),
        (["TEST.TASKS", "['panoptik']"], "TEST.TASKS"),
        (["TEST.TASKS", "()"], "TEST.TASKS"),
        (["INPUT.DATASET_MAPPER_NAME", "ToyMaper"], "did you mean ToyMapper"),
        (["MODEL.META_ARCHITECTURE", "ToySegmentor"], "did you mean ToySegmenter"),
        (["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"], "replayed"),
        (["OUTPUT_WRITERS", "['jsn']"], "OUTPUT_WRITERS names 'jsn'"),
    ],
)  # fmt: skip
def test_one_clear_error(tmp_path, opts, message):
    with pytest.raises(ConfigError, match=message) as error:
        toy_config(tmp_path / "out", *opts)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_probabilities_must_sum_to_one():
    def add(cfg):
        add_segcore_config(cfg)
        cfg.INPUT.TASK_PROB = type(cfg)({"PANOPTIC": 0.5, "INSTANCE": 0.5, "SEMANTIC": 0.5})

    opts = ["MODEL.META_ARCHITECTURE", "ToySegmenter", "DATASETS.TRAIN", "('toy_train',)"]
    with pytest.raises(ConfigError, match=r"sum to 1, but they sum to 1.5"):
        build_config(arguments(opts=opts), [add])


def test_wandb_is_asked_for_but_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"'wandb'.*pip install wandb"):
        toy_config(tmp_path, "OUTPUT_WRITERS", "['wandb']")


def test_a_file_with_an_unknown_key(tmp_path):
    (tmp_path / "base.yaml").write_text("VERSION: 2\nSOLVER: {POLY_POWER: 0.9}\n")
    (tmp_path / "config.yaml").write_text("_BASE_: base.yaml\nMODEL: {META_ARCHITECTURE: ToySegmenter}\n")
    with pytest.raises(ConfigError, match=r"SOLVER.POLY_POWER \(did you mean SOLVER.POLY_LR_POWER\?\)"):
        build_config(arguments(config_file=str(tmp_path / "config.yaml")), [add_segcore_config])


def test_evaluation_needs_weights(tmp_path):
    opts = ["MODEL.META_ARCHITECTURE", "ToySegmenter", "DATASETS.TEST", "('toy_train',)",
            "INPUT.DATASET_MAPPER_NAME", "ToyMapper"]  # fmt: skip
    with pytest.raises(ConfigError, match="--eval-only needs weights"):
        build_config(arguments(opts=opts, eval_only=True), [add_segcore_config])


def test_evaluation_builds_the_model_without_its_training_parts(tmp_path):
    def add(cfg):
        add_segcore_config(cfg)
        cfg.MODEL.IS_TRAIN = True

    opts = ["MODEL.META_ARCHITECTURE", "ToySegmenter", "DATASETS.TEST", "('toy_train',)",
            "DATASETS.TRAIN", "('toy_train',)", "MODEL.WEIGHTS", "x.pth",
            "INPUT.DATASET_MAPPER_NAME", "ToyMapper"]  # fmt: skip
    assert not build_config(arguments(opts=opts, eval_only=True), [add]).MODEL.IS_TRAIN
    assert build_config(arguments(opts=opts), [add]).MODEL.IS_TRAIN


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "META_ARCHITECTURE is not set; expected one of ['Toy']"),
        (["MODEL.META_ARCHITECTURE", "Mask2Former"], "META_ARCHITECTURE is 'Mask2Former'"),
        (["--config-file", "nowhere.yaml"], "config file 'nowhere.yaml' does not exist"),
    ],
)
def test_the_command_prints_the_error(argv, message, capsys):
    assert main({"Toy": lambda: add_segcore_config}, argv) == 2
    assert message in capsys.readouterr().err


def test_processes_must_share_the_batch(tmp_path, monkeypatch):
    cfg = toy_config(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check_processes(arguments(num_gpus=2), cfg)
    with pytest.raises(ConfigError, match="IMS_PER_BATCH is 4, which 3 processes"):
        check_processes(arguments(num_gpus=3), cfg)
    with pytest.raises(ConfigError, match="--dist-url"):
        check_processes(arguments(num_machines=2), cfg)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="torchrun starts the processes"):
        check_processes(arguments(num_gpus=2), cfg)

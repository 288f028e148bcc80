"""Command line -> checked config. A mistake ends here, before anything is built or written."""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Callable, Iterable

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog
from detectron2.engine import default_argument_parser, default_setup
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from segcore.config import resolve_datasets
from segcore.config_files import ConfigError, default_device, merge_file, merge_pairs, read_file, suggestion
from segcore.data import MAPPER_REGISTRY
from segcore.data.label_space import label_tasks
from segcore.data.training_set import CHECKS
from segcore.engine.hooks import WRITERS
from segcore.engine.step import build_precision
from segcore.memory import ALL, keep_freed_memory
from segcore.solver import OPTIMIZERS, build_gradient_clipper, schedule_names

TASKS = ("panoptic", "instance", "semantic")

AddConfig = Callable[[CfgNode], None]


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's: --config-file --resume --eval-only --num-gpus --num-machines ... KEY VALUE ..."""
    parser = default_argument_parser()
    # A free port each time: two trainings on one machine must not share one.
    parser.set_defaults(dist_url="auto")
    parser.add_argument(
        "--save-predictions",
        action="store_true",
        help="write what is predicted in evaluations, as the benchmark's server takes it, under OUTPUT_DIR/inference",
    )
    return parser


# -- reading --------------------------------------------------------------------


def build_config(args: argparse.Namespace, add_config_fns: Iterable[AddConfig]) -> CfgNode:
    """Defaults, then the file, then KEY VALUE pairs; validated and frozen.

    Args:
        args: of `argument_parser()`.
        add_config_fns: each declares a package's keys on a config, in place.

    Raises:
        ConfigError: for an unknown key (the nearest known one is suggested), a value of
            the wrong type, or settings that contradict each other or the machine.
    """
    cfg = get_cfg()
    for add_config in add_config_fns:
        add_config(cfg)
    if args.config_file:
        merge_file(cfg, args.config_file)
    merge_pairs(cfg, args.opts or [])
    if getattr(args, "save_predictions", False):
        cfg.TEST.SAVE_PREDICTIONS = True
    if cfg.MODEL.DEVICE == "auto":
        cfg.MODEL.DEVICE = default_device()
    if "IS_TRAIN" in cfg.MODEL:
        cfg.MODEL.IS_TRAIN = not args.eval_only
    try:
        resolve_datasets(cfg)
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(str(error)) from error
    validate(cfg, training=not args.eval_only)
    if args.eval_only and not cfg.MODEL.WEIGHTS and not args.resume:
        raise ConfigError(
            "--eval-only needs weights: add MODEL.WEIGHTS PATH, or --resume for the last checkpoint in "
            f"OUTPUT_DIR ({cfg.OUTPUT_DIR})"
        )
    cfg.freeze()
    return cfg


def setup(args: argparse.Namespace, add_config_fns: Iterable[AddConfig]) -> CfgNode:
    """`build_config`, then Detectron2's set-up: output folder, logger, a copy of the config, seeds."""
    add_config_fns = list(add_config_fns)
    cfg = build_config(args, add_config_fns)
    default_setup(cfg, args)
    make_deterministic(cfg.DETERMINISTIC)
    if torch.device(cfg.MODEL.DEVICE).type == "cpu":
        keep_freed_memory(most=ALL)
    for package in {"segcore", *(add.__module__.split(".")[0] for add in add_config_fns)}:
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name=package)
    return cfg


def make_deterministic(mode: str) -> None:
    """Choose operators whose results do not vary from run to run.

    Args:
        mode: "off"; "warn": where there is none, torch warns and takes the other; "strict": it raises.
    """
    if mode == "off":
        return
    # cuBLAS reads it when it starts; without it, it adds in an order of its own.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=mode == "warn")


def architecture_of(args: argparse.Namespace) -> str | None:
    """The `MODEL.META_ARCHITECTURE` that the file or the command line names; None if neither does.

    It is needed before the config can be built, because each model declares its own keys.

    Raises:
        ConfigError: if the file cannot be read.
    """
    key = "MODEL.META_ARCHITECTURE"
    pairs = list(args.opts or [])
    if key in pairs[0::2]:
        return dict(zip(pairs[0::2], pairs[1::2])).get(key)
    if not args.config_file:
        return None
    return read_file(args.config_file).get("MODEL", {}).get("META_ARCHITECTURE")


# -- checking -------------------------------------------------------------------


def validate(cfg: CfgNode, *, training: bool) -> None:
    """Check what can be known before anything is built.

    Raises:
        ConfigError: for the first thing that is wrong.
    """
    _check_device(cfg)
    _check_architecture(cfg)
    _check_tasks(cfg)
    _check_datasets(cfg, training)
    _check_mapper(cfg)
    if training:
        _check_solver(cfg)
        _check_writers(cfg)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _check_device(cfg: CfgNode) -> None:
    _require(
        cfg.DETERMINISTIC in ("off", "warn", "strict"),
        f"DETERMINISTIC is {cfg.DETERMINISTIC!r}; expected 'off', 'warn' or 'strict'",
    )
    device = torch.device(cfg.MODEL.DEVICE)
    _require(
        device.type != "cuda" or torch.cuda.is_available(),
        f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r} but PyTorch finds no CUDA device here; use MODEL.DEVICE cpu",
    )


def _check_architecture(cfg: CfgNode) -> None:
    name = cfg.MODEL.META_ARCHITECTURE
    known = [key for key, _ in META_ARCH_REGISTRY]
    _require(
        name in known,
        f"MODEL.META_ARCHITECTURE is {name!r}, which no imported package registers{suggestion(name, known)}",
    )


def _check_tasks(cfg: CfgNode) -> None:
    tasks = list(cfg.TEST.TASKS)
    _require(
        bool(tasks) and set(tasks) <= set(TASKS) and len(set(tasks)) == len(tasks),
        f"TEST.TASKS is {tasks}; expected one or more of {list(TASKS)}, each once",
    )
    probabilities = cfg.INPUT.get("TASK_PROB")
    if probabilities is None:
        return
    values = dict(probabilities)
    _require(
        all(p >= 0 for p in values.values()) and abs(sum(values.values()) - 1.0) < 1e-6,
        f"INPUT.TASK_PROB is {values}; expected probabilities >= 0 that sum to 1, "
        f"but they sum to {sum(values.values()):g}",
    )


def _check_datasets(cfg: CfgNode, training: bool) -> None:
    keys = ["TRAIN", "TEST"] if training else ["TEST"]
    known = DatasetCatalog.list()
    for key in keys:
        names = cfg.DATASETS[key]
        _require(isinstance(names, (tuple, list)), f"DATASETS.{key} is {names!r}; expected a list of names")
        for name in names:
            _require(
                name in known,
                f"DATASETS.{key} names {name!r}, which is not registered{suggestion(name, known)}",
            )
    _require(not training or len(cfg.DATASETS.TRAIN) > 0, "DATASETS.TRAIN is empty: nothing to train on")
    _require(training or len(cfg.DATASETS.TEST) > 0, "DATASETS.TEST is empty: nothing to evaluate")
    for name in cfg.DATASETS.TEST:
        _require(
            bool({*label_tasks(name)} & {*cfg.TEST.TASKS}),
            f"the labels of {name} measure {', '.join(label_tasks(name))}, TEST.TASKS asks for "
            f"{', '.join(cfg.TEST.TASKS)}: nothing to evaluate",
        )
    if training:
        _check_mix(cfg)


def _check_mix(cfg: CfgNode) -> None:
    weights, names = list(cfg.DATASETS.TRAIN_WEIGHTS), list(cfg.DATASETS.TRAIN)
    _require(
        not weights or (len(weights) == len(names) and min(weights) >= 0 and sum(weights) > 0),
        f"DATASETS.TRAIN_WEIGHTS is {weights}; expected a number >= 0 for each of DATASETS.TRAIN ({', '.join(names)})",
    )
    _require(
        cfg.DATASETS.CHECK_LABELS in CHECKS,
        f"DATASETS.CHECK_LABELS is {cfg.DATASETS.CHECK_LABELS!r}; expected one of {', '.join(CHECKS)}",
    )
    probabilities = {task.lower(): p for task, p in cfg.INPUT.get("TASK_PROB", {}).items()}
    for name in names:
        tasks = label_tasks(name)
        _require(
            not probabilities or any(probabilities.get(task, 0) > 0 for task in tasks),
            f"the labels of {name} train {', '.join(tasks)}, which INPUT.TASK_PROB gives no probability",
        )


def _check_mapper(cfg: CfgNode) -> None:
    name = cfg.INPUT.DATASET_MAPPER_NAME
    known = [key for key, _ in MAPPER_REGISTRY]
    _require(
        name in known,
        f"INPUT.DATASET_MAPPER_NAME is {name!r}; registered are {known}{suggestion(name, known)}",
    )


def _check_solver(cfg: CfgNode) -> None:
    solver = cfg.SOLVER
    for key in ("IMS_PER_BATCH", "MAX_ITER", "ACCUMULATE", "CHECKPOINT_PERIOD"):
        _require(solver[key] >= 1, f"SOLVER.{key} is {solver[key]}; expected at least 1")
    _require(
        solver.OPTIMIZER in OPTIMIZERS,
        f"SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}; expected one of {sorted(OPTIMIZERS)}",
    )
    _require(
        solver.LR_SCHEDULER_NAME in schedule_names(),
        f"SOLVER.LR_SCHEDULER_NAME is {solver.LR_SCHEDULER_NAME!r}; expected one of {schedule_names()}",
    )
    _require(
        solver.PARALLEL in ("ddp", "fsdp"), f"SOLVER.PARALLEL is {solver.PARALLEL!r}; expected 'ddp' or 'fsdp'"
    )
    half = solver.AMP.ENABLED and solver.AMP.DTYPE == "float16"
    _require(
        solver.PARALLEL == "ddp" or not (solver.EMA.ENABLED or half or cfg.TEST.PRECISE_BN.ENABLED),
        "SOLVER.PARALLEL fsdp goes without SOLVER.EMA, TEST.PRECISE_BN and float16 (use SOLVER.AMP.DTYPE bfloat16)",
    )
    decay = solver.EMA.DECAY
    _require(0 <= decay < 1, f"SOLVER.EMA.DECAY is {decay}; expected a number in [0, 1)")
    sampler = cfg.DATALOADER.SAMPLER_TRAIN
    _require(
        sampler == "TrainingSampler",
        f"DATALOADER.SAMPLER_TRAIN is {sampler!r}; only 'TrainingSampler' can be replayed from any iteration",
    )
    try:
        build_gradient_clipper(cfg)
        build_precision(cfg, torch.device(cfg.MODEL.DEVICE))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _check_writers(cfg: CfgNode) -> None:
    for name in cfg.OUTPUT_WRITERS:
        _require(name in WRITERS, f"OUTPUT_WRITERS names {name!r}; expected some of {list(WRITERS)}")
        _require(
            name not in ("wandb", "tensorboard") or importlib.util.find_spec(name) is not None,
            f"OUTPUT_WRITERS names {name!r} but that package is not installed: pip install {name}, "
            "or take it out of OUTPUT_WRITERS",
        )

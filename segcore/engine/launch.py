"""From the command line to a run, in one process or several."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.distributed as dist
from detectron2 import engine
from detectron2.utils import comm

from segcore.checkpoint import Checkpointer
from segcore.engine.ema import load_average
from segcore.engine.setup import (
    AddConfig,
    ConfigError,
    architecture_of,
    argument_parser,
    build_config,
    setup,
)
from segcore.engine.trainer import Trainer

logger = logging.getLogger(__name__)

LoadModel = Callable[[], AddConfig]


def main(models: Mapping[str, LoadModel], argv: Sequence[str] | None = None) -> int:
    """Train or evaluate as the command line says; returns the exit status.

    Args:
        models: for each `MODEL.META_ARCHITECTURE` a module-level function that imports the
            model's package and returns the function that declares its config keys.
        argv: without the program's name; the process's own by default.
    """
    return start(models, argument_parser().parse_args(argv))


def start(models: Mapping[str, LoadModel], args: argparse.Namespace) -> int:
    """`main` with the arguments of `argument_parser()`, already parsed."""
    try:
        load_model = _choose(models, architecture_of(args))
        cfg = build_config(args, [load_model()])
        check_processes(args, cfg)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    launch(args, load_model, cfg.MODEL.DEVICE)
    return 0


def run(args: argparse.Namespace, load_model: LoadModel) -> OrderedDict | None:
    """One process's work: train, or with --eval-only evaluate; returns the metrics."""
    cfg = setup(args, [load_model()])
    if args.eval_only:
        return evaluate_weights(cfg, resume=args.resume)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def _choose(models: Mapping[str, LoadModel], architecture: str | None) -> LoadModel:
    if architecture not in models:
        given = "is not set" if architecture is None else f"is {architecture!r}"
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE {given}; expected one of {sorted(models)} (see --config-file)"
        )
    return models[architecture]


def evaluate_weights(cfg, resume: bool = False) -> OrderedDict:
    """Evaluate `MODEL.WEIGHTS`, or with `resume` the last checkpoint of `OUTPUT_DIR`.

    With `SOLVER.EMA.ENABLED` the checkpoint's averaged weights, as at the end of training.

    Raises:
        FileNotFoundError: if there is nothing to resume from.
    """
    model = Trainer.build_model(cfg)
    checkpointer = Checkpointer(model, cfg.OUTPUT_DIR)
    if resume and not checkpointer.has_checkpoint():
        raise FileNotFoundError(f"--resume: there is no checkpoint in OUTPUT_DIR ({cfg.OUTPUT_DIR})")
    path = checkpointer.get_checkpoint_file() if resume else cfg.MODEL.WEIGHTS
    rest = checkpointer.load(path, checkpointables=[])
    if cfg.SOLVER.EMA.ENABLED:
        if "ema" in rest:
            load_average(model, rest["ema"])
            logger.info("evaluating the averaged weights")
        else:
            logger.warning("%s holds no averaged weights: evaluating the weights it has", path)
    return Trainer.test(cfg, model)


# -- processes --------------------------------------------------------------------


def under_torchrun() -> bool:
    """Whether a launcher has set this process's rank in the environment."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def check_processes(args: argparse.Namespace, cfg) -> None:
    """Check the number of processes against the machine and the batch.

    Raises:
        ConfigError: if they do not fit.
    """
    torchrun = under_torchrun()
    count = int(os.environ["WORLD_SIZE"]) if torchrun else args.num_gpus * args.num_machines
    on_gpu = torch.device(cfg.MODEL.DEVICE).type == "cuda"
    if torchrun and args.num_gpus * args.num_machines > 1:
        raise ConfigError("torchrun starts the processes itself: leave out --num-gpus and --num-machines")
    if count < 1:
        raise ConfigError(f"{args.num_gpus} GPUs on {args.num_machines} machines: at least one is needed")
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if torchrun else args.num_gpus
    if on_gpu and local > torch.cuda.device_count():
        raise ConfigError(f"{local} processes here, but PyTorch finds {torch.cuda.device_count()} GPUs")
    if not torchrun and count > 1 and not on_gpu and torch.cuda.is_available():
        raise ConfigError(
            "--num-gpus starts one process per GPU; for several CPU processes run "
            f"torchrun --nproc-per-node {args.num_gpus} train_net.py ... MODEL.DEVICE cpu"
        )
    if args.num_machines > 1 and args.dist_url == "auto" and not torchrun:
        raise ConfigError("--num-machines needs --dist-url tcp://HOST:PORT of the first machine")
    if not args.eval_only and cfg.SOLVER.IMS_PER_BATCH % count:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH is {cfg.SOLVER.IMS_PER_BATCH}, which {count} processes cannot share evenly"
        )


def launch(args: argparse.Namespace, load_model: LoadModel, device: str) -> None:
    """Run under torchrun's processes, or start our own through Detectron2 (gloo without a GPU)."""
    if not under_torchrun():
        engine.launch(
            run,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args, load_model),
        )
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    try:
        run(args, load_model)
    finally:
        dist.destroy_process_group()

"""Training and evaluation of either model, on Detectron2's trainer.

    setup.py       command line -> checked config
    replay.py      batches as a function of (seed, iteration)
    step.py        one optimizer step
    ema.py         averaged weights
    hooks.py       writers, and what they need to survive a resumption
    trainer.py     the run
    evaluation.py  the test sets, the table
    launch.py      one process or several
"""

from segcore.engine.evaluation import evaluate, report
from segcore.engine.launch import evaluate_weights, main, run
from segcore.engine.setup import ConfigError, argument_parser, build_config, setup
from segcore.engine.trainer import Trainer

__all__ = [
    "ConfigError",
    "Trainer",
    "argument_parser",
    "build_config",
    "evaluate",
    "evaluate_weights",
    "main",
    "report",
    "run",
    "setup",
]

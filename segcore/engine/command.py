"""The subcommands `train` and `evaluate` of a model's console program; `train_net.py` is both for both models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from segcore.engine.launch import LoadModel, start
from segcore.engine.setup import argument_parser

_TRAIN = """Train a model as a config says, then evaluate it: one table, and OUTPUT_DIR/metrics_final.json.

  {prog} --config-file configs/mini/{model}_mini.yaml                 on a laptop's CPU
  {prog} --config-file CFG --num-gpus 8 OUTPUT_DIR output/run
  {prog} --config-file CFG --resume                                  after it was killed
  {prog} --config-file CFG SOLVER.BASE_LR 5e-5 SOLVER.MAX_ITER 9000"""
_EVALUATE = """Measure weights on the test sets of a config: every metric of every task, in one table.

  {prog} --config-file CFG --weights model.pth
  {prog} --config-file CFG --weights hf:ORG/NAME --num-gpus 8
  {prog} --config-file CFG --resume                                  the last checkpoint of OUTPUT_DIR"""
_KEYS = "KEY VALUE pairs, last on the line, change settings of the config: OUTPUT_DIR output/run MODEL.DEVICE cpu"


def train(models: Mapping[str, LoadModel], model: str, argv: Sequence[str], prog: str) -> int:
    """Train as the command line says; see `segcore.engine.launch.main` for `models`."""
    return start(models, _parser(_TRAIN, model, prog).parse_args(argv))


def evaluate(models: Mapping[str, LoadModel], model: str, argv: Sequence[str], prog: str) -> int:
    """Evaluate as the command line says."""
    parser = _parser(_EVALUATE, model, prog)
    parser.add_argument("--weights", metavar="PATH|hf:ORG/NAME", help="the same as MODEL.WEIGHTS at the end")
    args = parser.parse_args(argv)
    args.eval_only = True
    if args.weights:
        args.opts = [*(args.opts or []), "MODEL.WEIGHTS", args.weights]
    return start(models, args)


def _parser(text: str, model: str, prog: str):
    parser = argument_parser()
    parser.prog = prog
    parser.description = text.format(prog=prog, model=model)
    parser.epilog = _KEYS
    return parser

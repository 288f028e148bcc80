"""What a model costs, and where it errs.

python tools/analyze.py cost --config-file configs/ade20k/oneformer_swin_t.yaml --size 640 640
python tools/analyze.py errors --config-file configs/facade/oneformer_compact.yaml \
    --weights demo/weights/oneformer_facade.safetensors --output output/errors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from tabulate import tabulate

from oneformer.analysis import find_errors, measure_cost
from oneformer.analysis.pictures import write_worst
from oneformer.config import add_oneformer_config
from oneformer.tasks import TASKS
from segcore.checkpoint import Checkpointer
from segcore.data import build_test_loader
from segcore.data.label_space import label_tasks, speaking_of
from segcore.engine import argument_parser, build_config
from segcore.evaluation import write_metrics
from segcore.inference import build_runner
from segcore.predictions import Classes
from segcore.script import run_script


def cost(args: argparse.Namespace) -> None:
    """Print the cost of each stage."""
    model = build_model(read_config(args))
    stages = measure_cost(model, tuple(args.size), args.task, args.repeats)
    rows = [[s.stage, s.parameters / 1e6, s.flops / 1e9, 1e3 * s.seconds, s.activations / 2**20] for s in stages]
    rows.append(["all", *(sum(row[i] for row in rows) for i in range(1, 5))])
    print(f"{args.config_file}, one image of {args.size[0]} x {args.size[1]}, {args.task} task, {model.device}")
    print(tabulate(rows, ["", "parameters (M)", "GFLOP", "ms", "activations (MiB)"], floatfmt=".2f"))


def errors(args: argparse.Namespace) -> None:
    """Print each class and the confusions; write the worst images."""
    cfg = read_config(args)
    name = cfg.DATASETS.TEST[0]
    classes = Classes.from_metadata(MetadataCatalog.get(name))
    model = build_model(cfg).eval()
    Checkpointer(model).load(args.weights)
    runner = build_runner(cfg, model)
    if cfg.DATASETS.CLASSES:
        runner = speaking_of(runner, name, cfg.DATASETS.CLASSES)
    inputs = (x for batch in build_test_loader(cfg, name) for x in batch)
    report = find_errors(runner, inputs, classes.names, label_tasks(name))
    print(tabulate(report.class_rows(), ["class", "IoU", "recall", "precision", "found", "of"], floatfmt=".1f"))
    confused = report.confused_rows()
    if confused:
        print(tabulate(confused, ["true", "taken for", "% of its pixels", "pixels"], floatfmt=".1f"))
    paths = write_worst(report, runner, cfg, classes, name, args.output, args.worst)
    content = {"images": [{"file": path, "score": score} for score, path in report.images]}
    write_metrics({**content, "classes": report.class_rows()}, str(Path(args.output) / "errors.json"))
    print(f"{len(paths)} pictures and errors.json in {args.output}")


def read_config(args: argparse.Namespace):
    pairs = [*args.opts, "MODEL.WEIGHTS", getattr(args, "weights", "none")]
    run = argument_parser().parse_args(["--config-file", args.config_file, "--eval-only", *pairs])
    return build_config(run, [add_oneformer_config])


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("cost", help="parameters, FLOPs, latency and activation memory of each stage")
    one.add_argument("--size", type=int, nargs=2, default=(640, 640), metavar=("HEIGHT", "WIDTH"))
    one.add_argument("--task", choices=TASKS, default="panoptic")
    one.add_argument("--repeats", type=int, default=5)
    two = commands.add_parser("errors", help="per-class and confusion tables, the worst images as pictures")
    two.add_argument("--weights", required=True, help="any format that the checkpointer reads")
    two.add_argument("--output", default="output/errors", help="folder of the pictures")
    two.add_argument("--worst", type=int, default=12, help="how many pictures")
    for command, work in ((one, cost), (two, errors)):
        command.set_defaults(work=work)
        command.add_argument("--config-file", required=True)
        command.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs for the config")
    return parser.parse_args()


def main() -> None:
    arguments = parse_args()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        arguments.work(arguments)


if __name__ == "__main__":
    run_script(main)

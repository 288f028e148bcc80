#!/usr/bin/env python
"""What the models of others.py cost, side by side: images per second in training and in inference, memory.

    python benchmarks/claims/speed.py [--steps 20] [--images 20] [--rounds 2] [--output FILE]

Random weights. Each model and phase runs in processes of its own, by turns, so that its peak memory is its own
(libraries and weights included). Training counts the mapper, forward, backward and update; inference one photograph
after the other, to the results that the evaluators take: of all three tasks, each with its own token, for OneFormer,
of its one answer for the others. Medians. Data: $DETECTRON2_DATASETS/labelmefacade_panoptic.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

import torch  # noqa: E402
from detectron2.utils.events import EventStorage  # noqa: E402

from benchmarks.claims.others import ROWS  # noqa: E402
from benchmarks.claims.table import HERE, RESULTS, Row  # noqa: E402
from benchmarks.claims.train import MODELS  # noqa: E402
from benchmarks.reporting import measured, report  # noqa: E402
from segcore.engine import Trainer, argument_parser, build_config  # noqa: E402
from segcore.engine.setup import architecture_of  # noqa: E402
from segcore.ops.fastest import fastest  # noqa: E402

RESULT = RESULTS / "others" / "speed.json"
PHASES = ("training", "inference")


def main() -> None:
    args = parse()
    if args.one:
        (row,) = (row for row in ROWS if row.folder == args.one[0])
        print(json.dumps(measure(row, args.one[1], args)))
        return
    runs: dict[tuple[str, str], list[dict]] = {}
    for _ in range(args.rounds):
        for row in ROWS:
            for phase in PHASES:
                runs.setdefault((row.folder, phase), []).append(spawn(row, phase, args))
                print(row.name, phase, runs[row.folder, phase][-1], flush=True)
    report({"benchmark": "claims_speed", "rows": [summary(row, runs) for row in ROWS]}, args.output)


def parse() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--steps", type=int, default=20, help="timed steps of training, after two more")
    p.add_argument("--images", type=int, default=20, help="timed photographs, after two more")
    p.add_argument("--rounds", type=int, default=2, help="processes of each model and phase")
    p.add_argument("--output", type=Path, default=RESULT, help="JSON file for the result")
    p.add_argument("--one", nargs=2, metavar=("ROW", "PHASE"), help=argparse.SUPPRESS)
    return p.parse_args()


def spawn(row: Row, phase: str, args: argparse.Namespace) -> dict:
    command = [sys.executable, __file__, "--one", row.folder, phase]
    return measured([*command, "--steps", str(args.steps), "--images", str(args.images)])


def measure(row: Row, phase: str, args: argparse.Namespace) -> dict:
    """One phase in this process: images per second, and the process's largest resident size in MB."""
    with tempfile.TemporaryDirectory() as work:
        settings = [*row.options, "OUTPUT_DIR", work, "DATALOADER.NUM_WORKERS", "0", "SEED", "1"]
        given = argument_parser().parse_args(["--config-file", str(HERE / row.config), *settings])
        cfg = build_config(given, [MODELS[architecture_of(given)]()])
        count = args.steps if phase == "training" else args.images
        timed = {"training": training_steps, "inference": photographs}[phase](cfg)
        seconds = list(islice(timed, count + 2))[2:]
    images = cfg.SOLVER.IMS_PER_BATCH if phase == "training" else 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {"images_per_second": images / statistics.median(seconds), "peak_mb": peak}


def training_steps(cfg) -> Iterator[float]:
    """Seconds of each step."""
    trainer = Trainer(cfg)
    with EventStorage() as trainer.storage:
        trainer.model.train()
        while True:
            start = time.perf_counter()
            trainer.run_step()
            yield time.perf_counter() - start


def photographs(cfg) -> Iterator[float]:
    """Seconds of each photograph of the test set."""
    model = Trainer.build_model(cfg).eval()
    for batch in Trainer.build_test_loader(cfg, cfg.DATASETS.TEST[0]):
        start = time.perf_counter()
        with torch.inference_mode(), fastest():
            model(batch)
        yield time.perf_counter() - start


def summary(row: Row, runs: dict[tuple[str, str], list[dict]]) -> dict:
    result: dict = {"row": row.name}
    for phase in PHASES:
        for key in ("images_per_second", "peak_mb"):
            result[f"{phase}_{key}"] = round(statistics.median(run[key] for run in runs[row.folder, phase]), 2)
    return result


if __name__ == "__main__":
    main()

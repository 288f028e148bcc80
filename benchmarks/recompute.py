#!/usr/bin/env python
"""What activation checkpointing costs and saves in a training step, part by part.

    python benchmarks/recompute.py [--config configs/ade20k/oneformer_swin_t.yaml] [--size 512] [--batch 2]

A part that is recomputed keeps its inputs alone in the forward pass and runs again in the backward pass. Each case
runs in processes of its own, by turns; the memory is the largest resident size less that before the first step.
The losses are those of the step that keeps everything.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from pathlib import Path

import torch
from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # this file's folder would hide the package seggpt

from benchmarks.reporting import report  # noqa: E402
from benchmarks.train import build, by_turns, make_batch, resident  # noqa: E402
from segcore import solver  # noqa: E402
from segcore.memory import ALL, keep_freed_memory  # noqa: E402
from segcore.ops.fastest import fastest  # noqa: E402

BACKBONES = ("SWIN", "CONVNEXT", "DiNAT")
PARTS = {
    "backbone": tuple(f"MODEL.{name}.USE_CHECKPOINT" for name in BACKBONES),
    "pixel decoder": ("MODEL.ONE_FORMER.CHECKPOINT_ENCODER",),
    "decoder": ("MODEL.ONE_FORMER.CHECKPOINT_DECODER",),
}
CASES = {"nothing": (), **{part: (part,) for part in PARTS}, "all": tuple(PARTS)}


def main() -> None:
    args = parse()
    if args.case:
        print(json.dumps(measure(args)))
        return
    runs = by_turns(__file__, "--case", CASES, args)
    rows = [{"recomputed": case, **summary(found)} for case, found in runs.items()]
    kept = rows[0]
    for row in rows:
        row["times_as_long"], row["of_the_memory"] = row["seconds"] / kept["seconds"], row["mb"] / kept["mb"]
        row["loss_difference"] = abs(row["loss"] - kept["loss"]) / kept["loss"]
    print(tabulate(rows, headers="keys", floatfmt=".2f"))
    settings = {"config": Path(args.config).name, "size": args.size, "batch": args.batch}
    report({"benchmark": "recompute", **settings, "rows": rows}, args.output)


def parse() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--config", default=str(ROOT / "configs/ade20k/oneformer_swin_t.yaml"))
    p.add_argument("--size", type=int, default=512)
    p.add_argument("--batch", type=int, default=2)
    p.add_argument("--steps", type=int, default=3, help="timed steps of each process, after one more")
    p.add_argument("--rounds", type=int, default=1, help="processes of each case, by turns")
    p.add_argument("--output", type=Path, help="also write the JSON to this file")
    p.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    return p.parse_args()


def measure(args: argparse.Namespace) -> dict:
    """One case in this process: seconds of each step, memory in MB, and the first step's loss."""
    switches = [key for part in CASES[args.case] for key in PARTS[part]]
    cfg, model = build(args.config, [x for key in switches for x in (key, True)])
    batch = make_batch(cfg, args.size, args.batch)
    optimizer, before, losses, seconds = solver.build_optimizer(cfg, model), resident(), [], []
    torch.manual_seed(0)
    keep_freed_memory(most=ALL)   # as the training engine does on a CPU
    for _ in range(args.steps + 1):
        start = time.perf_counter()
        optimizer.zero_grad()
        with fastest():
            loss = sum(model(batch).values())
            loss.backward()
        optimizer.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds[1:], "mb": peak - before, "loss": losses[0]}


def summary(runs: list[dict]) -> dict:
    seconds = statistics.median(s for run in runs for s in run["seconds"])
    return {"seconds": seconds, "mb": statistics.median(run["mb"] for run in runs), "loss": runs[0]["loss"]}


if __name__ == "__main__":
    main()

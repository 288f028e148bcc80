"""Post-processing of all three tasks against the straightforward form: time, peak memory, equal output.

    python benchmarks/postprocess.py [--queries 150 250] [--sizes 1024 2048] [--repeats 3]

Logits as a trained model gives them (`scene` of tests/oneformer/modeling/straightforward.py), 150 classes, mask
logits at a quarter of the size. Both forms give a panoptic map, a label map and instances. Each form runs in a
process of its own, so that its peak memory is its own; what the process holds before is subtracted. Ends with
one JSON line; `--output` keeps it in a file.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import time
from pathlib import Path

# This file's folder would hide the package of the same name.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch  # noqa: E402

from benchmarks.reporting import measured, report  # noqa: E402
from oneformer.modeling import postprocess  # noqa: E402
from oneformer.modeling.mask_resize import MaskResizer  # noqa: E402
from tests.oneformer.modeling import straightforward  # noqa: E402

CLASSES, THINGS = 150, range(100)


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    if args.case:
        print(json.dumps(run_case(args)))
        return
    rows = [compare(args, queries, size) for size in args.sizes for queries in args.queries]
    result = {"benchmark": "oneformer_postprocess", "rows": rows, "repeats": args.repeats}
    report(result, args.output)


def parse() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--queries", type=int, nargs="+", default=[150, 250])
    p.add_argument("--sizes", type=int, nargs="+", default=[1024, 2048])
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--output", help="JSON file for the result")
    p.add_argument("--case", choices=["straightforward", "ours"], help=argparse.SUPPRESS)
    return p.parse_args()


def run_case(args: argparse.Namespace) -> dict:
    """Time one form in this process; `args.queries` and `args.sizes` hold one number each."""
    queries, size = args.queries[0], args.sizes[0]
    form = postprocess if args.case == "ours" else straightforward
    logits = straightforward.scene(queries, CLASSES, (size // 4, size // 4))
    resize = MaskResizer((size, size), (size, size), (size, size))
    steps = {
        "semantic": lambda: form.semantic_labels(*logits, resize),
        "panoptic": lambda: form.panoptic_segmentation(
            *logits, resize, thing_classes=set(THINGS), object_threshold=0.5, overlap_threshold=0.8
        ),
        "instance": lambda: form.instance_segmentation(
            *logits, resize, max_instances=queries, thing_classes=set(THINGS)
        ),
    }
    before = peak_mb()
    seconds, results = {name: [] for name in steps}, {}
    with torch.inference_mode():
        for _ in range(args.repeats):
            for name, step in steps.items():
                results.pop(name, None)
                start = time.perf_counter()
                results[name] = step()
                seconds[name].append(time.perf_counter() - start)
                if name == "instance":
                    summary = summarise(results)
                    results.clear()
    return {"seconds": seconds, "peak_mb": peak_mb() - before, "summary": summary}


def summarise(results: dict) -> dict:
    """Numbers that are equal only if the results are."""
    ids, segments = results["panoptic"]
    found, labels = results["instance"], results["semantic"].long()
    place = torch.arange(ids.numel()).view_as(ids) % 65_537
    return {
        "labels": int((labels * place).sum()),
        "ids": int((ids * place).sum()),
        "segments": [[s["id"], s["category_id"], s["isthing"]] for s in segments],
        "instances": [[c, int((m * place).sum())] for c, m in zip(found.pred_classes.tolist(), found.pred_masks)],
        "scores": found.scores.tolist(),
    }


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def compare(args: argparse.Namespace, queries: int, size: int) -> dict:
    runs = {case: spawn(args, case, queries, size) for case in ("straightforward", "ours")}
    theirs, mine = (run["summary"].pop("scores") for run in runs.values())
    # Sums in another order: scores agree to rounding, everything else exactly.
    close = len(theirs) == len(mine) and all(abs(a - b) < 1e-5 for a, b in zip(theirs, mine))
    equal = close and runs["ours"]["summary"] == runs["straightforward"]["summary"]
    row = {"queries": queries, "size": size, "equal": equal}
    for case, run in runs.items():
        medians = {name: statistics.median(values) for name, values in run["seconds"].items()}
        row[case] = {"seconds": sum(medians.values()), **medians, "peak_mb": run["peak_mb"]}
    row["time_ratio"] = row["straightforward"]["seconds"] / row["ours"]["seconds"]
    row["memory_ratio"] = row["straightforward"]["peak_mb"] / row["ours"]["peak_mb"]
    row["segments"] = len(runs["ours"]["summary"]["segments"])
    row["instances"] = len(runs["ours"]["summary"]["instances"])
    print(
        f"{queries} queries to {size} x {size}: {row['straightforward']['seconds']:.2f} s -> "
        f"{row['ours']['seconds']:.2f} s ({row['time_ratio']:.1f} x), {row['straightforward']['peak_mb']:.0f} MB -> "
        f"{row['ours']['peak_mb']:.0f} MB ({row['memory_ratio']:.1f} x), equal: {row['equal']}",
        flush=True,
    )
    return row


def spawn(args: argparse.Namespace, case: str, queries: int, size: int) -> dict:
    command = [sys.executable, __file__, "--case", case, "--queries", str(queries), "--sizes", str(size),
               "--repeats", str(args.repeats), "--threads", str(args.threads)]
    return measured(command)


if __name__ == "__main__":
    main()

"""A picture to its final result: ours against Hugging Face's OneFormer and processor with the same weights.

    python benchmarks/model.py [--config ade20k/oneformer_swin_t] [--size 640] [--tasks 1 3] [--repeats 3]

Random weights, exported by `HuggingFaceExporter`, so that both run the same model; a picture of `--size` squared,
uint8 in, what a user keeps out: label maps, segments, instances. Every case runs in a process of its own, so
that its memory is its own; rounds are repeated, so that a busy machine disturbs all cases alike. Processor
seconds, of all threads, are what is left of a disturbed run. A case runs once before it is timed. Resident
memory in MB: "imported" with the libraries, "loaded" with the weights read, "request" what the first picture
takes beyond that at its peak, "peak" of the whole process. "beyond the libraries" is the peak less "imported",
which both need and which differs from system to system, from 650 to 900 MB for the same wheels. "gflop" counts
matrix products, convolutions and attention; of deformable attention ours only, the other's has no count.
Needs Linux. Ends with one JSON line; `--output` keeps it in a file.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

# This file's folder would hide the package of the same name.
ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from benchmarks.reporting import measured, report  # noqa: E402

TASKS = {1: ["panoptic"], 3: ["panoptic", "instance", "semantic"]}
CASES = ["huggingface", "exact", "ours", "bf16"]
MEMORY = ("imported_mb", "loaded_mb", "request_mb", "peak_mb")


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    if args.case:
        print(json.dumps(run_case(args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        args.weights = folder
        export(args)
        runs: dict[tuple[str, int], list[dict]] = {}
        for _ in range(args.rounds):
            for tasks in args.tasks:
                for case in args.cases:
                    runs.setdefault((case, tasks), []).append(spawn(args, case, tasks))
                    print(f"  {case}, {tasks} tasks: {runs[case, tasks][-1]['seconds']:.2f} s", flush=True)
    rows = [summarise(args, tasks, runs) for tasks in args.tasks]
    result = {"benchmark": "oneformer_model", "config": args.config, "size": args.size, "rows": rows,
              "repeats": args.repeats, "rounds": args.rounds}
    report(result, args.output)


def parse() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--config", default="ade20k/oneformer_swin_t", help="of configs/, without .yaml")
    p.add_argument("--size", type=int, default=640)
    p.add_argument("--tasks", type=int, nargs="+", choices=TASKS, default=[1, 3])
    p.add_argument("--cases", nargs="+", choices=CASES, default=["huggingface", "ours"],
                   help="exact: the model's default operators, without the predictor's choice of faster ones; "
                   "bf16: the predictor with precision='bf16'")
    p.add_argument("--repeats", type=int, default=3, help="timed runs in a process")
    p.add_argument("--rounds", type=int, default=1, help="processes of each case")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--output", help="JSON file for the result")
    p.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    p.add_argument("--weights", help=argparse.SUPPRESS)
    return p.parse_args()


def config(args: argparse.Namespace):
    from detectron2.config import get_cfg

    from oneformer import add_oneformer_config

    cfg = get_cfg()
    add_oneformer_config(cfg)
    cfg.merge_from_file(str(ROOT / "configs" / f"{args.config}.yaml"))
    cfg.MODEL.DEVICE, cfg.MODEL.IS_TRAIN = "cpu", False
    cfg.INPUT.MIN_SIZE_TEST = args.size
    return cfg


def export(args: argparse.Namespace) -> None:
    """Weights with logits of a realistic spread, so that post-processing has segments to make."""
    from detectron2.modeling import build_model

    from oneformer.convert import HuggingFaceExporter

    cfg = config(args)
    torch.manual_seed(0)
    model = build_model(cfg)
    with torch.no_grad():
        predictor = model.sem_seg_head.predictor
        predictor.class_embed.weight.mul_(12)
        predictor.query_embed.weight.mul_(3)
    HuggingFaceExporter(cfg).save(model, args.weights)


def picture(size: int) -> np.ndarray:
    """Smooth colours with detail, (size, size, 3) uint8."""
    random = torch.Generator().manual_seed(1)
    image = sum(
        torch.nn.functional.interpolate(torch.rand(1, 3, n, n, generator=random), size=(size, size), mode="bicubic")
        for n in (4, 16, 64)
    )
    return (image / 3).clamp(0, 1).mul(255).byte()[0].permute(1, 2, 0).numpy()


def run_case(args: argparse.Namespace) -> dict:
    image, tasks = picture(args.size), TASKS[args.tasks[0]]
    build = huggingface if args.case == "huggingface" else ours
    call, model, imported = build(args)
    model.requires_grad_(False)   # the counter of operations follows what asks for a gradient
    seconds, processor = [], []
    for weight in model.parameters():
        weight.sum()   # a mapped file is read when it is used
    gc.collect()
    loaded, loading_peak = resident("VmRSS"), resident("VmHWM")
    Path("/proc/self/clear_refs").write_text("5")   # the peak starts anew
    counts = operator_flops() if args.case != "huggingface" else {}
    with FlopCounterMode(display=False, custom_mapping=counts) as counter:
        call(image, tasks)
    request_peak = resident("VmHWM")
    for _ in range(args.repeats):
        start, start_of_processor = time.perf_counter(), time.process_time()
        found = call(image, tasks)
        seconds.append(time.perf_counter() - start)
        processor.append(time.process_time() - start_of_processor)
    return {
        "seconds": statistics.median(seconds),
        "processor_seconds": statistics.median(processor),
        "all_seconds": seconds,
        "imported_mb": imported,
        "loaded_mb": loaded,
        "request_mb": request_peak - loaded,
        "peak_mb": max(loading_peak, resident("VmHWM")),
        "gflop": counter.get_total_flops() / 1e9,
        "found": found,
    }


def operator_flops() -> dict:
    from oneformer.analysis.cost import operator_flops

    return operator_flops()


def resident(field: str) -> float:
    """MB: "VmRSS" now, "VmHWM" at the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def huggingface(args: argparse.Namespace):
    """What the documentation of transformers shows: the processor, the model once per task, post-processing."""
    import transformers
    from open_clip.tokenizer import SimpleTokenizer

    processor, architecture = transformers.AutoImageProcessor, transformers.OneFormerForUniversalSegmentation
    imported = resident("VmRSS")
    images = processor.from_pretrained(args.weights, repo_path=args.weights)
    model = architecture.from_pretrained(args.weights).eval()
    tokenizer = SimpleTokenizer(context_length=77)

    @torch.inference_mode()
    def call(image, tasks):
        found, size = {}, [image.shape[:2]]
        for task in tasks:
            inputs = images(images=[image], task_inputs=[task], return_tensors="pt")
            tokens = tokenizer([f"the task is {task}"])
            output = model(pixel_values=inputs["pixel_values"], pixel_mask=inputs["pixel_mask"], task_inputs=tokens)
            post = getattr(images, f"post_process_{task}_segmentation")
            result = post(output, target_sizes=size)[0]
            found[task] = int(result.max()) if task == "semantic" else len(result["segments_info"])
        return found

    return call, model, imported


def ours(args: argparse.Namespace):
    import contextlib

    import oneformer.predictor
    from oneformer import OneFormerPredictor

    if args.case == "exact":
        oneformer.predictor.fastest = contextlib.nullcontext
    imported = resident("VmRSS")
    precision = "bf16" if args.case == "bf16" else "fp32"
    predictor = OneFormerPredictor(config(args), args.weights, "cpu", precision=precision)

    def call(image, tasks):
        found = predictor(image, "all" if len(tasks) == 3 else tasks[0])
        return {
            "panoptic": len(found.panoptic.segments),
            "instance": len(found.instance) if found.instance else None,
            "semantic": int(found.semantic.labels.max()) if found.semantic else None,
        }

    return call, predictor.model, imported


def spawn(args: argparse.Namespace, case: str, tasks: int) -> dict:
    command = [sys.executable, __file__, "--case", case, "--tasks", str(tasks), "--weights", args.weights,
               "--config", args.config, "--size", str(args.size), "--repeats", str(args.repeats),
               "--threads", str(args.threads)]
    return measured(command)


def summarise(args: argparse.Namespace, tasks: int, runs: dict) -> dict:
    row: dict = {"tasks": tasks}
    for case in args.cases:
        mine = runs[case, tasks]
        row[case] = {
            "seconds": statistics.median(run["seconds"] for run in mine),
            "all_seconds": [s for run in mine for s in run["all_seconds"]],
            "processor_seconds": statistics.median(run["processor_seconds"] for run in mine),
            **{key: statistics.median(run[key] for run in mine) for key in MEMORY},
            "gflop": mine[0]["gflop"],
            "found": mine[0]["found"],
        }
    base = row[args.cases[0]]
    for case in args.cases[1:]:
        row[case]["times_as_fast"] = base["seconds"] / row[case]["seconds"]
        row[case]["memory_ratio"] = row[case]["peak_mb"] / base["peak_mb"]
        row[case]["model_memory_ratio"] = model_mb(row[case]) / model_mb(base)
        row[case]["request_memory_ratio"] = row[case]["request_mb"] / base["request_mb"]
        row[case]["processor_ratio"] = base["processor_seconds"] / row[case]["processor_seconds"]
        ratios = [row[case][f"{name}memory_ratio"] for name in ("", "model_", "request_")]
        print(f"{tasks} task(s): {args.cases[0]} {told(base)}; {case} {told(row[case])}: "
              f"{row[case]['times_as_fast']:.1f} x as fast, memory {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    return row


def told(case: dict) -> str:
    return (f"{case['seconds']:.2f} s, {case['gflop']:.0f} GFLOP, {case['peak_mb']:.0f} MB, "
            f"{model_mb(case):.0f} beyond the libraries, {case['request_mb']:.0f} of them for the picture")


def model_mb(case: dict) -> float:
    return case["peak_mb"] - case["imported_mb"]


if __name__ == "__main__":
    main()

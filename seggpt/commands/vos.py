"""Follow objects through the clips of a benchmark after the masks of their first frames.

  {prog} --benchmark davis2017 --root DAVIS --weights seggpt_vit_large.pth
  {prog} --benchmark mose --root MOSE --weights seggpt_vit_large.pth --output output/mose

DAVIS is judged here: J, F and their mean, as its own tool counts them. For YouTube-VOS and MOSE the folder
Annotations under --output is what their servers take, packed as they ask.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from segcore.evaluation import metrics_table, write_metrics
from seggpt.evaluation.vos import evaluate_clips, write_submission
from seggpt.evaluation.vos_benchmarks import BENCHMARKS, asked_frames, benchmark_clips
from seggpt.pictures import FITS
from seggpt.predictor import SegGPTPredictor
from seggpt.video import VideoSegmenter


def parse_args(argv: Sequence[str] | None, prog: str) -> argparse.Namespace:
    p = argparse.ArgumentParser(
        prog=prog, description=__doc__.format(prog=prog), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--benchmark", choices=list(BENCHMARKS), required=True)
    p.add_argument("--root", required=True, help="folder of the release")
    p.add_argument("--clips", nargs="+", default=[], help="only these; default: those of the validation list")
    p.add_argument("--output", default="output/seggpt_vos", help="folder for label PNGs and metrics.json")
    p.add_argument("--weights", help="default: the small bundled ones")
    p.add_argument("--config-file", help="where the weights do not say")
    p.add_argument("--device", help="cpu, cuda, ...")
    p.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    p.add_argument("--memory", type=int, default=7, help="last frames that join the first (the paper: 8 in all)")
    p.add_argument("--joint", action="store_true", help="all objects in one painting, instead of a pass for each")
    p.add_argument("--fit", choices=FITS, default="squash", help="to the network's canvas")
    return p.parse_args(argv)


def main(argv: Sequence[str] | None = None, prog: str = "seggpt vos") -> int:
    """Run the command; ValueError and OSError are sentences for the user."""
    args = parse_args(argv, prog)
    benchmark = BENCHMARKS[args.benchmark]
    clips = benchmark_clips(benchmark, args.root, args.clips)
    predictor = SegGPTPredictor(args.config_file, args.weights, args.device, dtype=getattr(torch, args.dtype))
    segmenter = VideoSegmenter(predictor, memory=args.memory, separate=not args.joint, fit=args.fit)
    folder = Path(args.output) / "Annotations"
    if not benchmark.judged:
        asked = asked_frames(benchmark, args.root, clips)
        write_submission(segmenter, clips, folder, every_label=benchmark.every_label, asked=asked)
        print(f"{len(clips)} clips in {folder}")
        return 0
    results = evaluate_clips(segmenter, clips, folder)
    print(metrics_table({args.benchmark: results}))
    write_metrics(results, str(Path(args.output) / "metrics.json"))
    return 0

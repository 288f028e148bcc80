"""What the operators' backends mean for whole models: Swin-T OneFormer's pixel decoder, DiNAT-L OneFormer end to end.

    python benchmarks/ops_in_models.py [--models swin_t dinat_l] [--cases CASE ...] [--output FILE]

One 640 x 640 picture, random weights, fp32, the panoptic task with its post-processing. A case names the operators'
backend in an otherwise plain model; "predictor" is the model as OneFormerPredictor runs it, with the best backend and
the linear layers that are fastest on this processor (segcore/ops/linear.py), "predictor, reference" the same with the
operators' reference. Each model and case runs in a process of its own, so that its peak memory is its own (weights
and libraries included). Times are medians. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # this file's folder would hide the package seggpt

import torch  # noqa: E402
from detectron2.config import get_cfg  # noqa: E402
from detectron2.modeling import build_model  # noqa: E402

from benchmarks.reporting import measured, report  # noqa: E402
from oneformer import add_oneformer_config  # noqa: E402
from segcore.ops import available_backends, extension, use_backend  # noqa: E402
from segcore.ops.fastest import fastest  # noqa: E402

SIDE = 640
CASES = {  # -> the operators' backend, None for the best, and who multiplies
    **{name: (name, nullcontext) for name in ("reference", "torch", "cpu")},
    "predictor, reference": ("reference", fastest),
    "predictor": (None, fastest),
}


def timed(function, repeats: int) -> tuple[float, object]:
    """Median seconds of `repeats` calls after a warm-up, and the last result."""
    result, seconds = function(), []
    for _ in range(repeats):
        begin = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds), result


def matrix_product_gflops(threads: int) -> float:
    """What fp32 products reach here: the linear layers and convolutions around the operators cannot be faster."""
    torch.set_num_threads(threads)
    a, b = torch.randn(2, 2048, 2048)
    seconds, _ = timed(lambda: a @ b, 15)
    return 2 * 2048**3 / seconds / 1e9


def measure(name: str, case: str, repeats: int, threads: int) -> dict:
    """One row: seconds of the pixel decoder and of the whole model, peak memory, and a sum to compare results by."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    cfg = get_cfg()
    add_oneformer_config(cfg)
    cfg.merge_from_file(str(ROOT / f"configs/ade20k/oneformer_{name}.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg).eval()
    image = torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8)
    inputs = [{"image": image, "height": SIDE, "width": SIDE, "task": "panoptic"}]
    backend, linears = CASES[case]
    with torch.inference_mode(), use_backend(backend) if backend else nullcontext(), linears():
        features = model.backbone(torch.randn(1, 3, SIDE, SIDE))
        decoder, (embeddings, *_) = timed(lambda: model.sem_seg_head.pixel_decoder(features), repeats)
        whole, _ = timed(lambda: model(inputs), repeats)
    return {
        "model": name,
        "case": case,
        "pixel_decoder_seconds": decoder,
        "model_seconds": whole,
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
        "embeddings_norm": embeddings.norm().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = [case for case, (backend, _) in CASES.items() if not available_backends().get(backend)]
    parser.add_argument("--models", nargs="+", default=["swin_t", "dinat_l"])
    parser.add_argument("--cases", nargs="+", default=here, choices=here)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="keep the JSON line in this file")
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "CASE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(*arguments.one, arguments.repeats, arguments.threads)))
        return
    numbers = ["--repeats", str(arguments.repeats), "--threads", str(arguments.threads)]
    rows, gflops = [], matrix_product_gflops(arguments.threads)
    print(f"fp32 matrix products: {gflops:.0f} GFLOP/s")
    print(f"{'model':10s} {'case':20s} {'pixel decoder':>14s} {'whole model':>20s} {'peak memory':>12s}")
    for model in arguments.models:
        first = len(rows)
        for case in arguments.cases:
            command = [sys.executable, __file__, "--one", model, case, *numbers]
            row = measured(command)
            for part in ("pixel_decoder", "model"):
                row[f"{part}_ratio"] = (rows[first] if len(rows) > first else row)[f"{part}_seconds"] / row[
                    f"{part}_seconds"
                ]
            rows.append(row)
            print(
                f"{model:10s} {case:20s} {row['pixel_decoder_seconds'] * 1e3:7.0f} ms "
                f"{row['pixel_decoder_ratio']:4.1f}x {row['model_seconds'] * 1e3:11.0f} ms {row['model_ratio']:4.1f}x "
                f"{row['peak_megabytes']:9.0f} MB",
                flush=True,
            )
    record = {
        "benchmark": "ops_in_models",
        "instruction_set": extension.instruction_set(),
        "picture": [SIDE, SIDE],
        "matrix_product_gflops_per_second": gflops,
        "rows": rows,
    }
    report(record, arguments.output)


if __name__ == "__main__":
    main()

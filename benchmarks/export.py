"""Size and latency of exported files against the model in PyTorch: `python benchmarks/export.py --output FILE.json`.

The bundled OneFormer at 256 x 384 pixels, and a SegGPT of `configs/seggpt/seggpt_small.yaml` with random weights
(neither size nor time depends on them), one prompt. All forms run in turn, repeatedly; medians are reported.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before this folder, which has a seggpt.py

from oneformer.export import oneformer_graph
from oneformer.loading import build_loaded
from segcore.export import Graph, export_onnx, export_package, load_onnx, load_package
from seggpt.config import read_config
from seggpt.export import seggpt_graph
from seggpt.modeling import SegGPT

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "seggpt" / "seggpt_small.yaml"


def models() -> dict[str, Graph]:
    torch.manual_seed(0)
    small = SegGPT(**SegGPT.from_config(read_config(CONFIG))).eval()
    return {
        "oneformer, bundled, 256x384": oneformer_graph(build_loaded(device="cpu").model, 256, 384),
        "seggpt_small, 1 prompt, 224x224": seggpt_graph(small, 1),
    }


def measure(graph: Graph, folder: Path, repeats: int) -> dict:
    def in_torch(inputs) -> None:  # with the fastest operators of this machine, not those of the graph
        with torch.inference_mode():
            graph.module(*inputs.values())

    rows = {"PyTorch": {"run": in_torch, "megabytes": sum(p.numel() * 4 for p in graph.module.parameters()) / 1e6}}
    for name, suffix, write, load in (("ONNX, onnxruntime", ".onnx", export_onnx, load_onnx),
                                      ("AOTInductor package", ".pt2", export_package, load_package)):
        path = folder / f"model{suffix}"
        start = time.perf_counter()
        difference = write(graph, path)
        rows[name] = {"export_s": time.perf_counter() - start, "difference": difference,
                      "megabytes": path.stat().st_size / 1e6}
        rows[name]["run"] = load(path, torch.get_num_threads()) if suffix == ".onnx" else load(path)
    times = in_turn({name: row.pop("run") for name, row in rows.items()}, graph, repeats)
    return {name: {**row, "median_ms": times[name]} for name, row in rows.items()}


def in_turn(forms: dict[str, Callable], graph: Graph, repeats: int) -> dict[str, float]:
    """The median milliseconds of each; the first two rounds are for warming up."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(repeats + 2):
        for name, run in forms.items():
            start = time.perf_counter()
            run(graph.inputs)
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(values[2:]) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", type=Path, help="a .json file for the numbers")
    args = parser.parse_args()
    report = {
        "date": datetime.date.today().isoformat(), "device": platform.processor() or platform.machine(),
        "cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__, "dtype": "float32", "repeats": args.repeats, "models": {},
    }
    for name, graph in models().items():
        with tempfile.TemporaryDirectory() as folder:
            report["models"][name] = measure(graph, Path(folder), args.repeats)
        print(name, json.dumps(report["models"][name], indent=2), flush=True)
    if args.output:
        args.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

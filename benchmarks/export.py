"""Size and latency of exported files against the model in PyTorch: `python benchmarks/export.py --output FILE.json`.

The bundled OneFormer at 256 x 384 pixels, OneFormer R50 and Swin-T of ADE20K at 640 x 640, and a SegGPT of
`configs/seggpt/seggpt_small.yaml` with one prompt; all but the first with random weights (neither size nor time
depends on them). All forms run in turn, repeatedly; medians are reported.

Writing the files takes much longer than timing them: `--files FOLDER` keeps them for the next run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before this folder, which has a seggpt.py

from benchmarks.reporting import report
from oneformer import add_oneformer_config
from oneformer.export import oneformer_graph
from oneformer.loading import build_loaded
from segcore.export import Graph, export_onnx, export_package, load_onnx, load_package
from segcore.weight_storage import stored_bytes
from seggpt.config import read_config
from seggpt.export import seggpt_graph
from seggpt.modeling import SegGPT

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
ONE_SIZE, ANY_SIZE, PACKAGE = "ONNX, one size", "ONNX, any size", "AOTInductor package"


Forms = dict[str, Graph]  # by form; the first is also what PyTorch runs, and its inputs are what is timed


def of_oneformer(model, height: int, width: int) -> Forms:
    fixed = oneformer_graph(model, height, width)
    return {ONE_SIZE: fixed, ANY_SIZE: oneformer_graph(model, 128, 96, any_size=True), PACKAGE: fixed}


def random_oneformer(config: str) -> Forms:
    cfg = get_cfg()
    add_oneformer_config(cfg)
    cfg.merge_from_file(str(CONFIGS / "ade20k" / config))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.IS_TRAIN", False, "MODEL.WEIGHTS", ""])
    torch.manual_seed(0)
    return of_oneformer(build_model(cfg).eval(), 640, 640)


def small_seggpt() -> Forms:
    torch.manual_seed(0)
    cfg = read_config(CONFIGS / "seggpt" / "seggpt_small.yaml")
    graph = seggpt_graph(SegGPT(**SegGPT.from_config(cfg)).eval(), 1)
    return {ONE_SIZE: graph, PACKAGE: graph}


MODELS: dict[str, Callable[[], Forms]] = {
    "oneformer_bundled_256x384": lambda: of_oneformer(build_loaded(device="cpu").model, 256, 384),
    "oneformer_r50_640x640": lambda: random_oneformer("oneformer_r50.yaml"),
    "oneformer_swin_t_640x640": lambda: random_oneformer("oneformer_swin_t.yaml"),
    "seggpt_small_224x224": small_seggpt,
}


def write_files(name: str, graphs: Forms, folder: Path) -> dict[str, dict]:
    """Facts of each file of a model; a file that is there with its facts stays."""
    facts_path = folder / f"{name}.json"
    facts = json.loads(facts_path.read_text()) if facts_path.exists() else {}
    for form, graph in graphs.items():
        if form in facts:
            continue
        suffix, write = (".pt2", export_package) if form == PACKAGE else (".onnx", export_onnx)
        path = folder / f"{name}-{form.split(',')[-1].strip().replace(' ', '_')}{suffix}"
        difference = write(graph, path)
        facts[form] = {"file": path.name, "difference": difference._asdict(), "megabytes": path.stat().st_size / 1e6}
        facts_path.write_text(json.dumps(facts))
    return facts


def measure(name: str, graphs: Forms, folder: Path, repeats: int) -> dict[str, dict]:
    graph = next(iter(graphs.values()))

    def in_torch(inputs) -> None:  # with the fastest operators of this machine, not those of the graph
        with torch.inference_mode():
            graph.module(*inputs.values())

    rows, runs = {"PyTorch": {"megabytes": stored_bytes(graph.module) / 1e6}}, {"PyTorch": in_torch}
    facts = write_files(name, graphs, folder)
    for form in graphs:
        path = folder / facts[form].pop("file")
        runs[form] = load_package(path) if form == PACKAGE else load_onnx(path, torch.get_num_threads())
        rows[form] = facts[form]
    times = in_turn(runs, graph, repeats)
    return {form: {**row, "median_ms": times[form]} for form, row in rows.items()}


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
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--forms", nargs="+", choices=[ONE_SIZE, ANY_SIZE, PACKAGE], help="default: all")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--files", type=Path, help="folder that keeps the exported files, or already has them")
    parser.add_argument("--export-only", action="store_true", help="time nothing: sizes and differences alone")
    parser.add_argument("--output", type=Path, help="a .json file for the numbers")
    args = parser.parse_args()
    result = {
        "onnxruntime": onnxruntime.__version__, "dtype": "float32", "repeats": args.repeats, "models": {},
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.files or Path(scratch)
        for name in args.models:
            graphs = {form: graph for form, graph in MODELS[name]().items() if form in (args.forms or [form])}
            if args.export_only:
                result["models"][name] = write_files(name, graphs, folder)
                continue
            result["models"][name] = measure(name, graphs, folder, args.repeats)
            print(name, json.dumps(result["models"][name], indent=2), flush=True)
    if args.export_only:
        del result["repeats"]
    report(result, args.output)


if __name__ == "__main__":
    main()

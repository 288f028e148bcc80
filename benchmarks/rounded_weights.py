#!/usr/bin/env python
"""What weights of 16 and of 8 bits cost: the exported file itself, evaluated on labelled photographs.

Writes the model as ONNX for any size with its weights as fp32, bf16 and int8, measures size and latency of the files,
and evaluates each in all three tasks: the file takes the place of the network, everything before and after is the
package's. The default is the bundled model on LabelMeFacade (datasets: $DETECTRON2_DATASETS).

    python benchmarks/rounded_weights.py [--output FILE.json] [KEY VALUE ...]
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before this folder, which has a seggpt.py

import onnxruntime
import torch
from detectron2.config import get_cfg
from tabulate import tabulate

from benchmarks.reporting import report
from oneformer import add_oneformer_config
from oneformer.export import oneformer_graph
from oneformer.loading import build_loaded
from oneformer.modeling.oneformer import OneFormer, _Decoded
from oneformer.tasks import TASKS, asked_tasks
from segcore.checkpoint import bundled_weights
from segcore.config import resolve_datasets
from segcore.engine.evaluation import evaluate
from segcore.export import export_onnx, load_onnx

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "facade" / "oneformer_compact.yaml"
FORMS = ("fp32", "bf16", "int8")
METRICS = {"PQ": ("panoptic_seg", "PQ"), "PQ_st": ("panoptic_seg", "PQ_st"), "PQ_th": ("panoptic_seg", "PQ_th"),
           "AP": ("segm", "AP"), "mIoU": ("sem_seg", "mIoU")}


class OneFormerOfFile(OneFormer):
    """A OneFormer whose network is an exported file; made of one by changing its class."""

    run = None

    def _decode_all(self, batched_inputs: list[dict]) -> Iterator[_Decoded]:
        for i, x in enumerate(batched_inputs):
            images = self._prepare_images([x])
            pixels = images.tensor * self.pixel_std + self.pixel_mean   # the file normalises; padding is the mean
            for task in asked_tasks(x):
                classes, masks = self.run({"image": pixels, "task": torch.tensor([TASKS.index(task)])})
                yield _Decoded(i, task, torch.from_numpy(classes[0]), torch.from_numpy(masks[0]),
                               tuple(pixels.shape[-2:]), tuple(images.image_sizes[0]))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default=str(CONFIG))
    parser.add_argument("--weights", default=bundled_weights("oneformer"))
    parser.add_argument("--size", type=int, nargs=2, default=(256, 384), help="of the timed picture")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--files", type=Path, help="folder that keeps the exported files, or already has them")
    parser.add_argument("--export-only", action="store_true", help="write the files and stop; needs --files")
    parser.add_argument("--output", type=Path, help="a .json file for the numbers")
    parser.add_argument("opts", nargs="*", help="KEY VALUE pairs for the config")
    return parser.parse_args()


def read_config(args: argparse.Namespace, output_dir: str):
    cfg = get_cfg()
    add_oneformer_config(cfg)
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "OUTPUT_DIR", output_dir, "DATALOADER.NUM_WORKERS", 0, *args.opts])
    resolve_datasets(cfg)
    return cfg


def write_files(model: OneFormer, folder: Path) -> dict[str, Path]:
    """The file of each form; those that are there stay."""
    paths = {form: folder / f"{form}.onnx" for form in FORMS}
    graph = oneformer_graph(model, 128, 96, any_size=True)
    for form, path in paths.items():
        if not path.exists():
            export_onnx(graph.storing_weights(form), path)
    return paths


def quality(model: OneFormer, path: Path, cfg) -> dict[str, float]:
    """Percent by metric."""
    of_file = copy.copy(model)
    of_file.__class__ = OneFormerOfFile
    of_file.run = load_onnx(path, torch.get_num_threads())
    (results,) = evaluate(cfg, of_file).values()
    return {name: results[task][metric] for name, (task, metric) in METRICS.items()}


def latencies(paths: dict[str, Path], model: OneFormer, size: tuple[int, int], repeats: int) -> dict[str, float]:
    """Median milliseconds, the files in turn; the first two rounds are for warming up."""
    inputs = oneformer_graph(model, *size).inputs
    runs = {form: load_onnx(path, torch.get_num_threads()) for form, path in paths.items()}
    times: dict[str, list[float]] = {form: [] for form in runs}
    for _ in range(repeats + 2):
        for form, run in runs.items():
            start = time.perf_counter()
            run(inputs)
            times[form].append((time.perf_counter() - start) * 1e3)
    return {form: statistics.median(values[2:]) for form, values in times.items()}


def main() -> None:
    args = parse_args()
    model = build_loaded(args.config_file, args.weights, "cpu", args.opts).model
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.files or Path(scratch)
        paths = write_files(model, folder)
        if args.export_only:
            return
        cfg = read_config(args, os.path.join(scratch, "evaluation"))
        times = latencies(paths, model, args.size, args.repeats)
        rows = {form: {"megabytes": path.stat().st_size / 1e6, "median_ms": times[form], **quality(model, path, cfg)}
                for form, path in paths.items()}
    result = {
        "onnxruntime": onnxruntime.__version__,
        "weights": Path(args.weights).name, "data": list(cfg.DATASETS.TEST), "timed_size": list(args.size),
        "repeats": args.repeats, "forms": rows,
    }
    print(tabulate([[form, *row.values()] for form, row in rows.items()],
                   headers=["weights", *next(iter(rows.values()))], floatfmt=".2f"))
    report(result, args.output)


if __name__ == "__main__":
    main()

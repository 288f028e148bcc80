"""SegGPT's fast form against the straightforward one and against Hugging Face's, side by side.

    python benchmarks/seggpt.py [--prompts 1 4 8] [--dtype float32] [--device cpu] [--huggingface]
    python benchmarks/seggpt.py --attention        # the attention forms alone, per layer
    python benchmarks/seggpt.py --flops            # counted, no weights, seconds

Random weights, ViT-L at 896 x 448 unless told otherwise. Every timed case runs in a process of its
own, so that its peak memory is its own; a round runs each case once and rounds are repeated, so that
a busy machine disturbs all cases alike. Ends with one JSON line; `--output` keeps it in a file.
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
from detectron2.config import get_cfg  # noqa: E402

from benchmarks.reporting import measured, report  # noqa: E402
from seggpt.config import add_seggpt_config  # noqa: E402
from seggpt.convert import huggingface_config, to_huggingface  # noqa: E402
from seggpt.modeling import SegGPT  # noqa: E402
from seggpt.modeling.attention import FORMS  # noqa: E402
from seggpt.modeling.in_context import encode_prompts, paint  # noqa: E402

# GFLOP of the released code, and with one query half, cached target stream and half a decoder
# (multiply-add counts 2), by number of prompts: shared query half of ViT-L at 896 x 448.
SPEC_GFLOP = {1: (1589.7, 1320.0), 8: (12717.9, 6349.0)}


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    if args.case:
        print(json.dumps(run_case(args)))
        return
    if args.flops:
        result = count_flops(args)
    elif args.attention:
        result = time_attention(args)
    else:
        result = compare(args)
    clock = "processor seconds" if args.cpu_time else "wall seconds"
    result["machine"] = {"device": args.device, "dtype": args.dtype, "load": os.getloadavg()[0], "clock": clock}
    report(result, args.output)


def parse() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--prompts", type=int, nargs="+", default=[1, 4, 8])
    p.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    p.add_argument("--device", default="cpu")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--cpu-time", action="store_true",
                   help="count processor seconds, not the clock's: on a machine that others use, "
                        "with --threads 1")
    p.add_argument("--repeats", type=int, default=1, help="timed rounds")
    p.add_argument("--config-file", default="configs/seggpt/seggpt_vit_l.yaml")
    p.add_argument("--huggingface", action="store_true", help="compare with transformers' SegGpt, one prompt")
    p.add_argument("--attention", action="store_true", help="time the attention forms per layer")
    p.add_argument("--flops", action="store_true", help="count operations only")
    p.add_argument("--output", help="JSON file for the result")
    p.add_argument("--case", choices=["plain", "fast", "huggingface"], help=argparse.SUPPRESS)
    return p.parse_args()


def model_arguments(args: argparse.Namespace) -> dict:
    cfg = get_cfg()
    add_seggpt_config(cfg)
    cfg.merge_from_file(args.config_file)
    return SegGPT.from_config(cfg)


def build(args: argparse.Namespace, attention: str) -> SegGPT:
    """The model with cheap random weights: proper initialisation takes longer than a run."""
    arguments = {**model_arguments(args), "attention": attention}
    with torch.device("meta"):
        model = SegGPT(**arguments)
    model.to_empty(device="cpu")
    model.pixel_mean.zero_()
    model.pixel_std.fill_(1)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            parameter.uniform_(-0.03, 0.03)
            if parameter.dim() == 1 and name.endswith("weight"):
                parameter.add_(1)
    return model.eval().to(args.device, getattr(torch, args.dtype))


def make_inputs(args: argparse.Namespace, model: SegGPT, count: int):
    height, width = model.img_size[0] // 2, model.img_size[1]
    generator = torch.Generator().manual_seed(1)
    images, targets = torch.randn(2, count, 3, height, width, generator=generator)
    query = torch.randn(1, 3, height, width, generator=generator)
    return tuple(t.to(args.device, model.dtype) for t in (query, images, targets))


def plain_call(model: SegGPT, query, images, targets) -> torch.Tensor:
    """The released code's way: K whole canvases."""
    canvas = torch.cat([images, query.expand_as(images)], 2)
    target = torch.cat([targets, targets], 2)
    length = (canvas.shape[2] // model.patch_size) * (canvas.shape[3] // model.patch_size)
    mask = (torch.arange(length, device=canvas.device) >= length // 2).to(canvas.dtype)[None]
    kind = torch.ones(len(images), device=canvas.device)
    return model.inpaint(canvas, target, mask, kind, ensemble=True)[:1, :, canvas.shape[2] // 2:]


def run_case(args: argparse.Namespace) -> dict:
    """Time one case in this process; `args.prompts` holds one number."""
    model = build(args, "materialised" if args.case == "plain" else "auto")
    query, images, targets = make_inputs(args, model, args.prompts[0])
    seconds = {}
    with torch.inference_mode():
        if args.case == "plain":
            out = timed(seconds, "whole", args, lambda: plain_call(model, query, images, targets))
        elif args.case == "fast":
            prompts = timed(seconds, "encode", args,
                            lambda: encode_prompts(model, images[None], targets[None, None], 1))
            out = timed(seconds, "paint", args, lambda: paint(model, query, prompts, seam="first"))[:, 0]
            seconds["whole"] = seconds["encode"] + seconds["paint"]
        else:
            theirs = huggingface_model(args, model)
            out = timed(seconds, "whole", args, lambda: theirs(
                pixel_values=query, prompt_pixel_values=images, prompt_masks=targets,
                embedding_type="instance").pred_masks)[:, :, query.shape[2]:]
    sample = out[0, :, ::97, ::89].float().tolist()
    return {"seconds": seconds, "peak_mb": peak_memory(args), "sample": sample}


def huggingface_model(args: argparse.Namespace, model: SegGPT):
    import transformers

    config = transformers.SegGptConfig(**huggingface_config(model_arguments(args)))
    with torch.device("meta"):
        theirs = transformers.SegGptForImageSegmentation(config)
    theirs.load_state_dict(to_huggingface(model.state_dict()), assign=True)
    for part in theirs.modules():   # buffers that the meta device left empty
        for name, buffer in part.named_buffers(recurse=False):
            if buffer.is_meta:
                raise RuntimeError(f"buffer {name} of {type(part).__name__} was not loaded")
    return theirs.eval()


def timed(seconds: dict, name: str, args: argparse.Namespace, call):
    if args.device != "cpu":
        call()   # kernels are chosen and loaded
        torch.cuda.synchronize()
    clock = time.process_time if args.cpu_time else time.perf_counter
    start = clock()
    out = call()
    if args.device != "cpu":
        torch.cuda.synchronize()
    seconds[name] = clock() - start
    return out


def peak_memory(args: argparse.Namespace) -> float:
    """MB: of the device's allocator, or of the whole process with its weights."""
    if args.device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def compare(args: argparse.Namespace) -> dict:
    """Run every case in turn, `repeats` times; print medians and ratios."""
    other = "huggingface" if args.huggingface else "plain"
    rows = []
    for count in [1] if args.huggingface else args.prompts:
        runs = {other: [], "fast": []}
        for _ in range(args.repeats):
            for case in runs:
                runs[case].append(spawn(args, case, count))
                print(f"  {count} prompts, {case}: {runs[case][-1]['seconds']['whole']:.1f} s", flush=True)
        rows.append(summarise(count, other, runs))
    print(f"\n{'prompts':>7} {other + ' s':>14} {'fast s':>8} {'(paint s)':>9} {'time':>6} "
          f"{other + ' MB':>15} {'fast MB':>8} {'memory':>6} {'difference':>10}")
    for r in rows:
        print(f"{r['prompts']:>7} {r[other]['seconds']:>14.2f} {r['fast']['seconds']:>8.2f} "
              f"{r['fast']['paint_seconds']:>9.2f} {r['time_ratio']:>6.3f} {r[other]['peak_mb']:>15.0f} "
              f"{r['fast']['peak_mb']:>8.0f} {r['memory_ratio']:>6.3f} {r['max_difference']:>10.1e}")
    return {"benchmark": f"seggpt_{other}", "rows": rows}


def spawn(args: argparse.Namespace, case: str, count: int) -> dict:
    command = [sys.executable, __file__, "--case", case, "--prompts", str(count), "--dtype", args.dtype,
               "--device", args.device, "--threads", str(args.threads), "--config-file", args.config_file,
               *(["--cpu-time"] if args.cpu_time else [])]
    return measured(command)


def summarise(count: int, other: str, runs: dict[str, list[dict]]) -> dict:
    def middle(case: str, name: str) -> float:
        return statistics.median(r["seconds"][name] for r in runs[case])

    def entry(case: str) -> dict:
        return {"seconds": middle(case, "whole"), "all_seconds": [r["seconds"]["whole"] for r in runs[case]],
                "peak_mb": max(r["peak_mb"] for r in runs[case])}

    fast, theirs = entry("fast"), entry(other)
    fast["paint_seconds"] = middle("fast", "paint")
    samples = [torch.tensor(runs[case][0]["sample"]) for case in (other, "fast")]
    return {"prompts": count, other: theirs, "fast": fast, "time_ratio": fast["seconds"] / theirs["seconds"],
            "paint_time_ratio": fast["paint_seconds"] / theirs["seconds"],
            "memory_ratio": fast["peak_mb"] / theirs["peak_mb"],
            "max_difference": (samples[0] - samples[1]).abs().max().item()}


def count_flops(args: argparse.Namespace) -> dict:
    """Operations of the plain and the fast form, counted by torch on tensors without data."""
    from torch.utils.flop_counter import FlopCounterMode

    rows = []
    with torch.device("meta"), torch.no_grad():
        for count in args.prompts:
            row = {"prompts": count}
            for form in ("materialised", "widened"):
                model = SegGPT(**{**model_arguments(args), "attention": form}).eval()
                height, width = model.img_size[0] // 2, model.img_size[1]
                images, query = torch.empty(count, 3, height, width), torch.empty(1, 3, height, width)
                with FlopCounterMode(display=False) as counter:
                    plain_call(model, query, images, images)
                row[f"plain_{form}"] = counter.get_total_flops() / 1e9
                prompts = encode_prompts(model, images[None], images[None, None], 1)
                for trim in (False, True):
                    with FlopCounterMode(display=False) as counter:
                        paint(model, query, prompts, trim_last=trim)
                    row[f"paint_{form}" + ("_trimmed" if trim else "")] = counter.get_total_flops() / 1e9
            rows.append(row)
    for row in rows:
        known = SPEC_GFLOP.get(row["prompts"])
        print("  ".join(f"{k} {v:.1f}" if k != "prompts" else f"{v} prompts:" for k, v in row.items()),
              f" (reference: plain {known[0]}, paint {known[1]})" if known else "")
    return {"benchmark": "seggpt_gflop", "rows": rows}


def time_attention(args: argparse.Namespace) -> dict:
    """Median milliseconds per layer of each attention form at this configuration."""
    c = model_arguments(args)
    rows, cols = (size // c["patch_size"] for size in c["img_size"])
    heads, dtype, torch_device = c["num_heads"], getattr(torch, args.dtype), torch.device(args.device)
    dim = c["embed_dim"] // heads
    torch.manual_seed(0)

    def random(*shape):
        return torch.randn(*shape).to(torch_device, dtype)

    # As the projection leaves them: heads side by side in memory
    q, k, v = random(3, args.prompts[0], rows * cols, heads, dim).transpose(2, 3)
    rel_h, rel_w = random(rows, rows, dim) * 0.1, random(cols, cols, dim) * 0.1
    result, exact = {}, None
    for name, form in FORMS.items():
        if name == "flex" and args.device == "cpu":
            continue
        if name == "tiled" and args.device != "cpu":
            continue
        times = []
        with torch.inference_mode():
            for _ in range(max(args.repeats, 3) + 1):
                seconds = {}
                out = timed(seconds, "call", args, lambda form=form: form(q, k, v, rel_h, rel_w))
                times.append(seconds["call"] * 1e3)
        exact = out if exact is None else exact
        result[name] = {"ms": statistics.median(times[1:]), "difference": (out - exact).abs().max().item()}
        print(f"{name:>13} {result[name]['ms']:8.1f} ms   difference {result[name]['difference']:.1e}")
    return {"benchmark": "seggpt_attention", "batch": args.prompts[0], "forms": result}


if __name__ == "__main__":
    main()

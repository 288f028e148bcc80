"""How fast are the operators? Every backend that is available here, side by side in one run.

    python benchmarks/ops.py [--quick] [--repeats 7] [--save]

Shapes: the pixel decoder's deformable attention at 640 x 640, 1024 x 1024 and 1024 x 2048 (3 levels, 8
heads x 32 channels, 4 points; offsets as at initialisation plus one pixel of noise) and DiNAT-L's
neighbourhood attention. Prints a table (medians, ratio to the reference, share of the measured copy
bandwidth that the necessary traffic alone would need, peak extra memory) and one JSON line; --save keeps
the line in benchmarks/results/.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import platform
import time
from pathlib import Path

import torch

from segcore.ops import (
    available_backends,
    extension,
    ms_deform_attn,
    ms_deform_attn_fused,
    neighborhood_attention_2d,
    reference,
    use_backend,
)

HEADS, CHANNELS, POINTS = 8, 32, 4
FLOPS_PER_POINT = 276  # 4 taps x 32 channels x 2, and the geometry
ATTENTION = {"40x40, 48 heads, K 11": (40, 48, 11, 1), "80x80, 24 heads, K 11, dilation 2": (80, 24, 11, 2)}


def deform_inputs(height: int, width: int, batch: int, device: str) -> tuple:
    """Value, shapes, reference points, pixel offsets and logits of an encoder layer."""
    generator = torch.Generator().manual_seed(0)
    shapes = [size for stride in (32, 16, 8) for size in (height // stride, width // stride)]
    points = []
    for level in range(3):
        rows, columns = shapes[2 * level], shapes[2 * level + 1]
        y, x = torch.meshgrid(
            (torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij"
        )
        points.append(torch.stack((x.flatten(), y.flatten()), -1))
    centres = torch.cat(points)[None, :, None].expand(batch, -1, 3, 2).contiguous()
    tokens = centres.shape[1]
    angle = torch.arange(HEADS) * (2 * math.pi / HEADS)
    direction = torch.stack((angle.cos(), angle.sin()), -1)
    direction = direction / direction.abs().amax(-1, keepdim=True)
    offsets = direction[:, None, None] * torch.arange(1, POINTS + 1)[:, None]  # (M, 1, P, 2)
    offsets = offsets + torch.randn(batch, tokens, HEADS, 3, POINTS, 2, generator=generator)
    value = torch.randn(batch, tokens, HEADS, CHANNELS, generator=generator)
    logits = torch.randn(batch, tokens, HEADS, 3, POINTS, generator=generator)
    return tuple(
        x.to(device) if isinstance(x, torch.Tensor) else x for x in (value, shapes, centres, offsets, logits)
    )


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def median_ms(function, device: str, repeats: int) -> float:
    function()
    times = []
    for _ in range(repeats):
        synchronise(device)
        begin = time.perf_counter()
        function()
        synchronise(device)
        times.append(time.perf_counter() - begin)
    return sorted(times)[repeats // 2] * 1e3


def peak_megabytes(function, device: str) -> float | None:
    """Memory that one call needs on top of what is there; None where the system does not tell."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    reset.write_text("5")  # sets the high-water mark back to the present size

    def resident(field: str) -> int:
        return int(
            next(line for line in status.read_text().splitlines() if line.startswith(field)).split()[1]
        )

    before = resident("VmRSS")
    function()
    return (resident("VmHWM") - before) / 2**10


def copy_bandwidth(device: str) -> float:
    """Bytes per second, read and written, of copying 256 MiB."""
    source = torch.ones(64 << 20, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / (median_ms(lambda: target.copy_(source), device, 7) / 1e3)


def forward_backward(function, leaves, grad):
    def run():
        return torch.autograd.grad(function(), leaves, grad)

    return run


def measure(case: str, function, leaves, backends, device, repeats, traffic, bandwidth, flops) -> list[dict]:
    """Forward and forward + backward of `function` on every backend, the reference first."""
    rows: list[dict] = []
    for backend in backends:
        with use_backend(backend):
            with torch.no_grad():
                output = function()
                forward = median_ms(function, device, repeats)
                memory = peak_megabytes(function, device)
            grad = torch.ones_like(output)
            both = median_ms(forward_backward(function, leaves, grad), device, max(3, repeats // 2))
        row = {"case": case, "backend": backend, "forward_ms": forward, "forward_backward_ms": both}
        first = rows[0] if rows else row
        row["forward_ratio"] = first["forward_ms"] / forward
        row["forward_backward_ratio"] = first["forward_backward_ms"] / both
        row["extra_megabytes"] = memory
        row["percent_of_copy"] = 100 * traffic / bandwidth / (forward / 1e3)
        row["gflops"] = flops / forward / 1e6
        rows.append(row)
        extra = "" if memory is None else f"{memory:8.1f} MB"
        print(
            f"{case:36s} {backend:10s} {forward:9.2f} ms {row['forward_ratio']:6.1f}x {both:9.2f} ms "
            f"{row['forward_backward_ratio']:6.1f}x {extra} {row['percent_of_copy']:5.1f} % "
            f"{row['gflops']:7.1f}",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="640 x 640 and the small attention map only")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--save", action="store_true", help="keep the JSON line in benchmarks/results/")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    serving = {"reference", "torch"} | ({"cpu"} if device == "cpu" else {"cuda", "triton"})
    backends = [name for name, reason in available_backends().items() if not reason and name in serving]
    bandwidth = copy_bandwidth(device)
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    print(
        f"{name}, {arguments.threads} threads, torch {torch.__version__}, CPU kernels: "
        f"{extension.instruction_set() or 'none'}, copy {bandwidth / 1e9:.1f} GB/s"
    )
    header = f"{'case':36s} {'backend':10s} {'forward':>12s} {'':7s} {'fwd + bwd':>12s} {'':7s}"
    print(f"{header} {'extra':>11s}    copy GFLOP/s")
    rows: list[dict] = []
    sizes = [(640, 640), (1024, 1024), (1024, 2048)]
    for height, width in sizes[:1] if arguments.quick else sizes:
        for batch in (1,) if arguments.quick else (1, 2):
            value, shapes, centres, offsets, logits = deform_inputs(height, width, batch, device)
            locations, weights = reference.sampling_inputs(shapes, centres, offsets, logits)
            plain = [value, locations, weights]
            fused = [value, offsets, logits]
            for x in (*plain, *fused):
                x.requires_grad_()
            flops = FLOPS_PER_POINT * weights.numel()
            common = (backends, device, arguments.repeats)
            traffic = 4 * (2 * value.numel() + locations.numel() + weights.numel())
            rows += measure(
                f"{height}x{width} b{batch} plain",
                lambda v=value, s=shapes, p=locations, w=weights: ms_deform_attn(v, s, p, w),
                plain,
                *common,
                traffic,
                bandwidth,
                flops,
            )
            rows += measure(
                f"{height}x{width} b{batch} fused",
                lambda v=value, s=shapes, c=centres, o=offsets, a=logits: ms_deform_attn_fused(v, s, c, o, a),
                fused,
                *common,
                traffic,
                bandwidth,
                flops,
            )
    for case, (side, heads, kernel, dilation) in list(ATTENTION.items())[: 1 if arguments.quick else None]:
        maps = [torch.randn(1, heads, side, side, 32, device=device, requires_grad=True) for _ in range(3)]
        rpb = torch.randn(heads, 2 * kernel - 1, 2 * kernel - 1, device=device, requires_grad=True)
        rows += measure(
            case,
            lambda m=maps, r=rpb, k=kernel, d=dilation: neighborhood_attention_2d(*m, k, d, r),
            [*maps, rpb],
            [b for b in backends if b != "cuda"],
            device,
            3,
            16 * maps[0].numel(),
            bandwidth,
            4 * kernel**2 * maps[0].numel(),
        )
    record = {
        "benchmark": "ops",
        "date": datetime.date.today().isoformat(),
        "device": name,
        "threads": arguments.threads,
        "torch": torch.__version__,
        "instruction_set": extension.instruction_set(),
        "copy_gigabytes_per_second": bandwidth / 1e9,
        "rows": rows,
    }
    line = json.dumps(record)
    if arguments.save:
        folder = Path(__file__).resolve().parent / "results"
        folder.mkdir(exist_ok=True)
        kind = "cuda" if device == "cuda" else "cpu"
        (folder / f"ops_{kind}_{record['date']}.json").write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()

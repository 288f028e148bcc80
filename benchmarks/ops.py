"""How fast are the operators? Every backend that is available here, side by side in one run.

    python benchmarks/ops.py [--cases 640 1024 1024x2048 attention grid] [--batches 1 2] [--keep-pages] [--output FILE]

Cases: the pixel decoder's deformable attention for a picture of that size (3 levels, 8 heads x 32 channels, 4
points; offsets as at initialisation plus one pixel of noise), plain and fused, and DiNAT-L's neighbourhood
attention against every other form of it; "grid": the query initialisation's attention to a whole stride-4 map, by
PyTorch's attention and by the sums of rows and columns. Forward, and forward + backward: medians; ratio to the first
form, for deformable attention `grid_sample` (fused: softmax + locations + `grid_sample`). Bytes are those that any
implementation must move (inputs once, output once), FLOPs those of the sum itself; "copy" is the time that copying the
bytes would take, as a share of the measured time. "extra" is the peak memory of a forward pass on top of its inputs.
Ends with one JSON line.

--keep-pages measures with a malloc that does not give freed memory back: kinder to forms with large temporaries.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installing

from benchmarks.reporting import report
from segcore.ops import (
    available_backends,
    extension,
    grid_attention,
    ms_deform_attn,
    ms_deform_attn_fused,
    neighborhood_attention_2d,
    reference,
    use_backend,
)
from segcore.ops.grid import use_row_sums

HEADS, CHANNELS, POINTS = 8, 32, 4
SIZES = {"640": (640, 640), "1024": (1024, 1024), "1024x2048": (1024, 2048)}
FLOPS_PER_POINT = 4 * CHANNELS * 2 + 20  # four taps, and the geometry
ATTENTION = {"40x40, 48 heads, K 11": (40, 48, 11, 1), "80x80, 24 heads, K 11, dilation 2": (80, 24, 11, 2)}
GRID = {"grid 160x160, 149 queries": (160, 149), "grid 256x256, 249 queries": (256, 249)}
KEPT_PAGES = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}
CASES = [*SIZES, "attention", "grid"]
ROUNDS, SECONDS, MOST = 3, 1.0, 5  # of one number: rounds, time spent in each, runs in each


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
    centres = torch.cat(points)[None, :, None].expand(1, -1, 3, 2).contiguous()
    tokens = centres.shape[1]
    angle = torch.arange(HEADS) * (2 * math.pi / HEADS)
    direction = torch.stack((angle.cos(), angle.sin()), -1)
    direction = direction / direction.abs().amax(-1, keepdim=True)
    offsets = direction[:, None, None] * torch.arange(1, POINTS + 1)[:, None]  # (M, 1, P, 2)
    offsets = offsets + torch.randn(batch, tokens, HEADS, 3, POINTS, 2, generator=generator)
    value = torch.randn(batch, tokens, HEADS, CHANNELS, generator=generator)
    logits = torch.randn(batch, tokens, HEADS, 3, POINTS, generator=generator)
    return tuple(x.to(device) if isinstance(x, Tensor) else x for x in (value, shapes, centres, offsets, logits))


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def medians_ms(functions: Sequence[Callable[[], object]], device: str) -> list[float]:
    """Median time of each function. They take turns, so that what disturbs the machine disturbs all alike."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(ROUNDS):
        for function, own in zip(functions, times):
            function()
            before = len(own)
            while len(own) == before or (sum(own[before:]) < SECONDS and len(own) < before + MOST):
                synchronise(device)
                begin = time.perf_counter()
                function()
                synchronise(device)
                own.append(time.perf_counter() - begin)
    return [sorted(own)[len(own) // 2] * 1e3 for own in times]


def peak_megabytes(function: Callable[[], object], device: str) -> float | None:
    """Memory that one call needs on top of what is there; None where the system does not tell."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if any(name in os.environ for name in KEPT_PAGES) or not Path("/proc/self/clear_refs").exists():
        return None  # kept pages are resident before the call
    ctypes.CDLL(None).malloc_trim(0)  # free memory that is still resident would be used first, and not be seen
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back to the present size

    def resident(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(field)).split()[1])

    before = resident("VmRSS")
    function()
    return (resident("VmHWM") - before) / 2**10


def copy_bandwidth(device: str) -> float:
    """Bytes per second, read and written, of copying 256 MiB."""
    source = torch.ones(64 << 20, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / (medians_ms([lambda: target.copy_(source)], device)[0] / 1e3)


def measure(
    case: str,
    forms: dict[str, Callable[[], Tensor]],
    leaves: Sequence[Tensor],
    work: dict[str, float],
    device: str,
    forward_only: Sequence[str] = (),
) -> list[dict]:
    """One row of numbers for each form; ratios are to the first."""
    with torch.no_grad():
        forwards = medians_ms(list(forms.values()), device)
        memories = [peak_megabytes(function, device) for function in forms.values()]
        grad = torch.ones_like(next(iter(forms.values()))())
    trained = [name for name in forms if name not in forward_only]
    steps = [lambda f=forms[name]: torch.autograd.grad(f(), leaves, grad) for name in trained]
    backwards = dict(zip(trained, medians_ms(steps, device)))
    rows: list[dict] = []
    for name, forward, memory in zip(forms, forwards, memories):
        both = backwards.get(name)
        row = {
            "case": case,
            "form": name,
            "forward_ms": forward,
            "forward_ratio": forwards[0] / forward,
            "forward_backward_ms": both,
            "forward_backward_ratio": both and next(iter(backwards.values())) / both,
            "extra_megabytes": memory,
            "bytes": work["bytes"],
            "flops": work["flops"],
            "percent_of_copy": 100 * work["bytes"] / work["bandwidth"] / (forward / 1e3),
            "gflops_per_second": work["flops"] / forward / 1e6,
        }
        rows.append(row)
        backward = "" if both is None else f"{both:9.2f} ms {row['forward_backward_ratio']:6.1f}x"
        extra = "" if memory is None else f"{memory:8.1f} MB"
        print(
            f"{case:34s} {name:12s} {forward:9.2f} ms {row['forward_ratio']:6.1f}x {backward:20s} {extra:11s} "
            f"{work['bytes'] / 1e6:7.1f} MB {work['flops'] / 1e9:6.2f} GFLOP {row['percent_of_copy']:5.1f} % "
            f"{row['gflops_per_second']:7.1f} GFLOP/s",
            flush=True,
        )
    return rows


def on_backend(backend: str, function: Callable[..., Tensor], *inputs) -> Callable[[], Tensor]:
    def run() -> Tensor:
        with use_backend(backend):
            return function(*inputs)

    return run


def measure_deform(size: str, batch: int, backends: Sequence[str], bandwidth: float, device: str) -> list[dict]:
    value, shapes, centres, offsets, logits = deform_inputs(*SIZES[size], batch, device)
    locations, weights = reference.sampling_inputs(shapes, centres, offsets, logits)
    for x in (value, locations, weights, offsets, logits):
        x.requires_grad_()
    work = {
        "bytes": 4.0 * (2 * value.numel() + locations.numel() + weights.numel()),
        "flops": float(FLOPS_PER_POINT * weights.numel()),
        "bandwidth": bandwidth,
    }
    forms = {b: on_backend(b, ms_deform_attn, value, shapes, locations, weights) for b in backends}
    rows = measure(f"{size} batch {batch} plain", forms, [value, locations, weights], work, device)
    forms = {b: on_backend(b, ms_deform_attn_fused, value, shapes, centres, offsets, logits) for b in backends}
    return rows + measure(f"{size} batch {batch} fused", forms, [value, offsets, logits], work, device)


def flex_form(maps: Sequence[Tensor], kernel: int, dilation: int, rpb: Tensor) -> Callable[[], Tensor]:
    """Neighbourhood attention by flex_attention, compiled; the dilation's groups side by side as a batch."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    side = maps[0].shape[2] // dilation
    start, _ = reference.window_starts(side, kernel, 1, maps[0].device)

    def score(value, batch, head, q, k):
        row = (k // side - q // side + kernel - 1).clamp(0, 2 * kernel - 2)
        column = (k % side - q % side + kernel - 1).clamp(0, 2 * kernel - 2)
        return value + rpb[head, row, column]

    def inside(batch, head, q, k):
        top, left, row, column = start[q // side], start[q % side], k // side, k % side
        return (row >= top) & (row < top + kernel) & (column >= left) & (column < left + kernel)

    def split(x: Tensor) -> Tensor:
        x = x.detach().unflatten(3, (side, dilation)).unflatten(2, (side, dilation))  # (B, M, h, d, w, d, D)
        return x.permute(0, 3, 5, 1, 2, 4, 6).flatten(4, 5).flatten(0, 2).contiguous()

    blocks = create_block_mask(inside, None, None, side * side, side * side, device=maps[0].device.type)
    torch._dynamo.reset()  # else a second map is compiled with dynamic sizes, which fails on a CPU (PyTorch 2.11)
    compiled = torch.compile(flex_attention, dynamic=False)

    def run() -> Tensor:
        out = compiled(*map(split, maps), score_mod=score, block_mask=blocks)
        out = out.unflatten(2, (side, side)).unflatten(0, (-1, dilation, dilation))
        return out.permute(0, 3, 4, 1, 5, 2, 6).reshape(maps[0].shape)

    return run


def measure_attention(case: str, backends: Sequence[str], bandwidth: float, device: str) -> list[dict]:
    side, heads, kernel, dilation = ATTENTION[case]
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(1, heads, side, side, 32, generator=generator).to(device) for _ in range(3)]
    rpb = torch.randn(heads, 2 * kernel - 1, 2 * kernel - 1, generator=generator).to(device)
    leaves = [x.requires_grad_() for x in (*maps, rpb)]
    work = {
        "bytes": 16.0 * maps[0].numel() + 4.0 * rpb.numel(),
        "flops": 4.0 * kernel**2 * maps[0].numel(),
        "bandwidth": bandwidth,
    }
    names = {"reference": "gather", "torch": "dense SDPA"}
    forms = {
        names.get(b, b): on_backend(b, neighborhood_attention_2d, *maps, kernel, dilation, rpb)
        for b in backends
        if b != "cuda"
    }
    forms["flex"] = flex_form(maps, kernel, dilation, rpb.detach())
    with torch.no_grad():
        torch.testing.assert_close(forms["flex"](), forms["gather"](), atol=1e-4, rtol=0)
    # flex_attention has no backward pass on a CPU
    return measure(case, forms, leaves, work, device, forward_only=["flex"])


def measure_grid(case: str, bandwidth: float, device: str) -> list[dict]:
    side, queries = GRID[case]
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    query = draw(1, queries, HEADS, CHANNELS).transpose(1, 2)  # as projections leave them
    key = draw(1, side * side, HEADS, CHANNELS).transpose(1, 2)
    leaves = [query, key, draw(side, HEADS, CHANNELS), draw(side, HEADS, CHANNELS)]
    for x in leaves:
        x.requires_grad_()

    def form(sums: bool) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with use_row_sums(sums):
                return grid_attention(*leaves)

        return run

    work = {
        "bytes": 4.0 * (2 * query.numel() + sum(x.numel() for x in leaves[1:])),
        "flops": 4.0 * queries * key.numel(),  # with the product that the sums replace
        "bandwidth": bandwidth,
    }
    forms = {"SDPA": form(False), "row sums": form(True)}
    return measure(case, forms, leaves, work, device, forward_only=["row sums"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--keep-pages", action="store_true", help="malloc keeps freed memory")
    parser.add_argument("--output", type=Path, help="keep the JSON line in this file")
    arguments = parser.parse_args()
    if arguments.keep_pages and any(os.environ.get(name) != value for name, value in KEPT_PAGES.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEPT_PAGES})
    torch.set_num_threads(arguments.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    serving = {"reference", "torch"} | ({"cpu"} if device == "cpu" else {"cuda", "triton"})
    backends = [name for name, reason in available_backends().items() if not reason and name in serving]
    bandwidth = copy_bandwidth(device)
    record = {
        "benchmark": "ops",
        "device": device,
        "instruction_set": extension.instruction_set(),
        "malloc": "keeps pages" if arguments.keep_pages else "default",
        "copy_gigabytes_per_second": bandwidth / 1e9,
    }
    print(", ".join(f"{key} {value}" for key, value in record.items()))
    header = f"{'case':34s} {'form':12s} {'forward':>12s} {'':7s} {'forward + backward':20s} {'extra':11s} "
    print(f"{header} {'bytes':>9s} {'flops':>12s}    copy {'speed':>15s}")
    rows: list[dict] = []
    for case in arguments.cases:
        if case == "attention":
            rows += [row for name in ATTENTION for row in measure_attention(name, backends, bandwidth, device)]
        elif case == "grid":
            rows += [row for name in GRID for row in measure_grid(name, bandwidth, device)]
        else:
            for batch in arguments.batches:
                rows += measure_deform(case, batch, backends, bandwidth, device)
    report({**record, "rows": rows}, arguments.output)


if __name__ == "__main__":
    main()

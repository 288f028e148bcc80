"""Deformable attention in Triton, for GPUs without a CUDA compiler.

One program serves a block of queries of one image and head, and loops over levels and points: four gathers of
a row of channels each, weighted and added in fp32 (fp64 for fp64). Geometry is never stored, the fused form's
softmax stays in registers. The backward pass adds the map's gradient with atomics in fp32; under
`torch.use_deterministic_algorithms` it adds 64-bit integers instead, whose sum does not depend on the order.

Shapes: B images, S tokens, Q queries, M heads, D channels, L levels, P points, N = L * P.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from segcore.ops import extension, reference

__all__ = ["backward", "forward"]

# Integer gradients keep this many bits for the largest possible sum of contributions.
_FIXED_POINT_BITS = 61


_BLOCKS = ((16, 1), (16, 2), (32, 2), (32, 4), (64, 4), (64, 8))  # queries, warps


def _tune(**options):
    """Autotuning over block sizes, kept on disk where Triton can; interpreted, there is nothing to time."""
    blocks = _BLOCKS[:1] if extension.triton_interprets() else _BLOCKS
    configs = [triton.Config({"BLOCK_Q": queries}, num_warps=warps) for queries, warps in blocks]
    if "cache_results" in inspect.signature(triton.autotune).parameters:
        options["cache_results"] = True
    return triton.autotune(configs=configs, **options)


@triton.jit
def _point(points, weights, centres, at, centre_at, peak, inverse, height, width, mask, FUSED: tl.constexpr):
    """Pixel coordinates and weight of one point of every query in the block."""
    x = tl.load(points + 2 * at, mask=mask, other=0.0)
    y = tl.load(points + 2 * at + 1, mask=mask, other=0.0)
    weight = tl.load(weights + at, mask=mask, other=0.0)
    if FUSED:
        x += tl.load(centres + centre_at, mask=mask, other=0.0) * width - 0.5
        y += tl.load(centres + centre_at + 1, mask=mask, other=0.0) * height - 0.5
        weight = tl.exp(weight - peak) * inverse
    else:
        x = x * width - 0.5
        y = y * height - 0.5
    return x, y, weight


@triton.jit
def _tap(value, x, y, dx: tl.constexpr, dy: tl.constexpr, height, width, start, row_size, channel, mask):
    """Rows of the tap (dx, dy) of every query, 0 outside the map; with their addresses and masks."""
    column = tl.floor(x) + dx
    row = tl.floor(y) + dy
    # NaN fails every comparison: such a tap is outside, and its weight is NaN
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & mask
    column = tl.where(inside, column, 0.0).to(tl.int32)
    row = tl.where(inside, row, 0.0).to(tl.int32)
    offset = (start + row * width.to(tl.int32) + column).to(tl.int64) * row_size
    offset = offset[:, None] + channel[None, :]
    return tl.load(value + offset, mask=inside[:, None] & (channel[None, :] >= 0), other=0.0), offset, inside


@triton.jit
def _softmax_range(weights, base, mask, COUNT: tl.constexpr, COUNT_2: tl.constexpr):
    """Maximum and 1 / sum of exponentials over the N logits of every query."""
    index = tl.arange(0, COUNT_2)
    inside = mask[:, None] & (index[None, :] < COUNT)
    logits = tl.load(weights + base[:, None] + index[None, :], mask=inside, other=-float("inf"))
    logits = tl.where(mask[:, None], logits, 0.0)
    peak = tl.max(logits, axis=1)
    return peak, 1.0 / tl.sum(tl.exp(logits - peak[:, None]), axis=1)


@_tune(key=["heads", "D", "L", "P", "FUSED"])
@triton.jit
def _forward_kernel(
    value,
    levels,
    centres,
    points,
    weights,
    output,
    tokens,
    queries,
    heads,
    centre_step,
    D: tl.constexpr,
    D_2: tl.constexpr,
    L: tl.constexpr,
    P: tl.constexpr,
    N_2: tl.constexpr,
    FUSED: tl.constexpr,
    BLOCK_Q: tl.constexpr,
):
    query = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    head = tl.program_id(1) % heads
    image = (tl.program_id(1) // heads).to(tl.int64)
    mask = query < queries
    lane = tl.arange(0, D_2)
    channel = tl.where(lane < D, lane, -(1 << 30))  # negative: masked in `_tap`
    map_start = value + (image * tokens * heads + head) * D
    group = (image * queries + query) * heads + head
    base = group * (L * P)
    peak = tl.zeros([BLOCK_Q], points.dtype.element_ty)
    inverse = peak
    if FUSED:
        peak, inverse = _softmax_range(weights, base, mask, L * P, N_2)
    total = tl.zeros([BLOCK_Q, D_2], points.dtype.element_ty)
    start = 0
    for level in tl.static_range(L):
        rows = tl.load(levels + 2 * level)
        columns = tl.load(levels + 2 * level + 1)
        height, width = rows.to(points.dtype.element_ty), columns.to(points.dtype.element_ty)
        centre_at = image * centre_step + (query.to(tl.int64) * L + level) * 2
        for p in tl.static_range(P):
            at = base + level * P + p
            x, y, w = _point(
                points, weights, centres, at, centre_at, peak, inverse, height, width, mask, FUSED
            )
            fx, fy = x - tl.floor(x), y - tl.floor(y)
            row_size = heads * D
            v, _, _ = _tap(map_start, x, y, 0, 0, height, width, start, row_size, channel, mask)
            total += ((1 - fx) * (1 - fy) * w)[:, None] * v
            v, _, _ = _tap(map_start, x, y, 1, 0, height, width, start, row_size, channel, mask)
            total += (fx * (1 - fy) * w)[:, None] * v
            v, _, _ = _tap(map_start, x, y, 0, 1, height, width, start, row_size, channel, mask)
            total += ((1 - fx) * fy * w)[:, None] * v
            v, _, _ = _tap(map_start, x, y, 1, 1, height, width, start, row_size, channel, mask)
            total += (fx * fy * w)[:, None] * v
        start += rows * columns
    at = group[:, None].to(tl.int64) * D + lane[None, :]
    tl.store(output + at, total.to(output.dtype.element_ty), mask=mask[:, None] & (lane[None, :] < D))


@triton.jit
def _scatter(grad_value, offset, inside, part, channel, scale, EXACT: tl.constexpr):
    mask = inside[:, None] & (channel[None, :] >= 0)
    if EXACT:
        tl.atomic_add(grad_value + offset, (part * scale).to(tl.int64), mask=mask, sem="relaxed")
    else:
        tl.atomic_add(grad_value + offset, part, mask=mask, sem="relaxed")


@_tune(key=["heads", "D", "L", "P", "FUSED", "EXACT"], reset_to_zero=["grad_value"])
@triton.jit
def _backward_kernel(
    grad,
    value,
    levels,
    centres,
    points,
    weights,
    grad_value,
    grad_points,
    grad_weights,
    scale,
    tokens,
    queries,
    heads,
    centre_step,
    D: tl.constexpr,
    D_2: tl.constexpr,
    L: tl.constexpr,
    P: tl.constexpr,
    N_2: tl.constexpr,
    FUSED: tl.constexpr,
    EXACT: tl.constexpr,
    BLOCK_Q: tl.constexpr,
):
    query = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    head = tl.program_id(1) % heads
    image = (tl.program_id(1) // heads).to(tl.int64)
    mask = query < queries
    lane = tl.arange(0, D_2)
    channel = tl.where(lane < D, lane, -(1 << 30))
    dtype = points.dtype.element_ty
    map_offset = (image * tokens * heads + head) * D
    map_start = value + map_offset
    grad_start = grad_value + map_offset
    group = (image * queries + query) * heads + head
    base = group * (L * P)
    at = group[:, None].to(tl.int64) * D + lane[None, :]
    top = tl.load(grad + at, mask=mask[:, None] & (lane[None, :] < D), other=0.0).to(dtype)
    factor = tl.load(scale) if EXACT else 1.0
    peak = tl.zeros([BLOCK_Q], dtype)
    inverse = peak
    if FUSED:
        peak, inverse = _softmax_range(weights, base, mask, L * P, N_2)
    slot = tl.arange(0, N_2)
    all_grads = tl.zeros([BLOCK_Q, N_2], dtype)  # of the weights, kept for the softmax's backward
    mean = tl.zeros([BLOCK_Q], dtype)
    start = 0
    for level in tl.static_range(L):
        rows = tl.load(levels + 2 * level)
        columns = tl.load(levels + 2 * level + 1)
        height, width = rows.to(dtype), columns.to(dtype)
        centre_at = image * centre_step + (query.to(tl.int64) * L + level) * 2
        for p in tl.static_range(P):
            at_point = base + level * P + p
            x, y, w = _point(
                points, weights, centres, at_point, centre_at, peak, inverse, height, width, mask, FUSED
            )
            fx, fy = x - tl.floor(x), y - tl.floor(y)
            row_size = heads * D
            v, offset, inside = _tap(map_start, x, y, 0, 0, height, width, start, row_size, channel, mask)
            d0 = tl.sum(top * v, axis=1)
            _scatter(
                grad_start, offset, inside, ((1 - fx) * (1 - fy) * w)[:, None] * top, channel, factor, EXACT
            )
            v, offset, inside = _tap(map_start, x, y, 1, 0, height, width, start, row_size, channel, mask)
            d1 = tl.sum(top * v, axis=1)
            _scatter(grad_start, offset, inside, (fx * (1 - fy) * w)[:, None] * top, channel, factor, EXACT)
            v, offset, inside = _tap(map_start, x, y, 0, 1, height, width, start, row_size, channel, mask)
            d2 = tl.sum(top * v, axis=1)
            _scatter(grad_start, offset, inside, ((1 - fx) * fy * w)[:, None] * top, channel, factor, EXACT)
            v, offset, inside = _tap(map_start, x, y, 1, 1, height, width, start, row_size, channel, mask)
            d3 = tl.sum(top * v, axis=1)
            _scatter(grad_start, offset, inside, (fx * fy * w)[:, None] * top, channel, factor, EXACT)
            grad_x = w * ((1 - fy) * (d1 - d0) + fy * (d3 - d2))
            grad_y = w * ((1 - fx) * (d2 - d0) + fx * (d3 - d1))
            grad_w = (1 - fy) * ((1 - fx) * d0 + fx * d1) + fy * ((1 - fx) * d2 + fx * d3)
            if FUSED:
                mean += w * grad_w
                all_grads = tl.where(slot[None, :] == level * P + p, grad_w[:, None], all_grads)
            else:
                grad_x = grad_x * width
                grad_y = grad_y * height
                tl.store(grad_weights + at_point, grad_w, mask=mask)
            tl.store(grad_points + 2 * at_point, grad_x, mask=mask)
            tl.store(grad_points + 2 * at_point + 1, grad_y, mask=mask)
        start += rows * columns
    if FUSED:
        cells = base[:, None] + slot[None, :]
        inside_slots = mask[:, None] & (slot[None, :] < L * P)
        logits = tl.load(weights + cells, mask=inside_slots, other=-float("inf"))
        probs = tl.exp(logits - peak[:, None]) * inverse[:, None]
        tl.store(grad_weights + cells, probs * (all_grads - mean[:, None]), mask=inside_slots)


@lru_cache(maxsize=256)
def _level_sizes(shapes: tuple[int, ...], device: torch.device) -> Tensor:
    """On the device, once per picture size: later calls copy nothing and can be captured in a CUDA graph."""
    return torch.tensor(shapes, dtype=torch.int32, device=device)


def _arguments(value: Tensor, shapes: Sequence[int], centres: Tensor | None, points: Tensor, weights: Tensor):
    """Contiguous inputs in the dtypes that the kernels expect, and the compile-time sizes."""
    dtype = reference.compute_dtype(value.dtype)
    points, weights = points.to(dtype).contiguous(), weights.to(dtype).contiguous()
    queries, levels, count = points.shape[1], points.shape[3], points.shape[4]
    step = 0
    if centres is not None:
        centres = centres.to(dtype).contiguous()
        step = queries * levels * 2 if centres.shape[0] > 1 else 0
    sizes = {
        "D": value.shape[3],
        "D_2": triton.next_power_of_2(value.shape[3]),
        "L": levels,
        "P": count,
        "N_2": triton.next_power_of_2(levels * count),
        "FUSED": centres is not None,
    }
    level_sizes = _level_sizes(tuple(int(n) for n in shapes), value.device)
    # without reference points the kernel never reads them: any pointer will do
    return (
        value.contiguous(),
        level_sizes,
        points if centres is None else centres,
        points,
        weights,
        step,
        sizes,
    )


def _grid(batch: int, queries: int, heads: int):
    return lambda meta: (triton.cdiv(queries, meta["BLOCK_Q"]), batch * heads)


def forward(
    value: Tensor, shapes: Sequence[int], centres: Tensor | None, points: Tensor, weights: Tensor
) -> Tensor:
    """As `segcore_native::msda_forward`: plain where `centres` is None, else fused."""
    batch, tokens, heads, channels = value.shape
    queries = points.shape[1]
    output = value.new_empty(batch, queries, heads * channels)
    if output.numel() == 0:
        return output
    value, level_sizes, centres, points, weights, step, sizes = _arguments(
        value, shapes, centres, points, weights
    )
    _forward_kernel[_grid(batch, queries, heads)](
        value, level_sizes, centres, points, weights, output, tokens, queries, heads, step, **sizes
    )
    return output


def _fixed_point_scale(grad: Tensor, weights: Tensor, fused: bool) -> Tensor:
    """Factor that turns contributions to the map's gradient into integers whose sum cannot overflow."""
    largest = grad.abs().amax().double()
    if fused:  # weights are logits: each softmax is at most 1, but a NaN or +inf must reach the integers' scale
        largest = largest + 0 * weights.flatten(-2).amax(-1).sum().double()
    else:
        largest = largest * weights.abs().amax().double()
    count = max(2, weights.shape[1] * weights.shape[3] * weights.shape[4] * 4)
    return torch.exp2((_FIXED_POINT_BITS - count.bit_length()) - torch.log2(largest.clamp_min(1e-250)).ceil())


def backward(
    grad: Tensor,
    value: Tensor,
    shapes: Sequence[int],
    centres: Tensor | None,
    points: Tensor,
    weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `segcore_native::msda_backward`: gradients of value, points and weights."""
    batch, tokens, heads, _ = value.shape
    queries = points.shape[1]
    dtype = reference.compute_dtype(value.dtype)
    exact = torch.are_deterministic_algorithms_enabled()
    grad_value = torch.zeros(value.shape, dtype=torch.int64 if exact else dtype, device=value.device)
    grad_points = torch.empty(points.shape, dtype=dtype, device=value.device)
    grad_weights = torch.empty(weights.shape, dtype=dtype, device=value.device)
    if points.numel() > 0 and value.numel() > 0:
        grad = grad.contiguous()
        scale = _fixed_point_scale(grad, weights, centres is not None) if exact else grad
        inputs = _arguments(value, shapes, centres, points, weights)
        packed, level_sizes, reference_points, flat_points, flat_weights, step, sizes = inputs
        _backward_kernel[_grid(batch, queries, heads)](
            grad,
            packed,
            level_sizes,
            reference_points,
            flat_points,
            flat_weights,
            grad_value,
            grad_points,
            grad_weights,
            scale,
            tokens,
            queries,
            heads,
            step,
            **sizes,
            EXACT=exact,
        )
        if exact:
            grad_value = grad_value.double() / scale
    return grad_value.to(value.dtype), grad_points.to(points.dtype), grad_weights.to(weights.dtype)

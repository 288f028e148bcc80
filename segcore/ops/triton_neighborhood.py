"""Neighbourhood attention in Triton: forward and backward, without atomics.

One program serves a block of pixels of one dilation group of one head. Each pass walks over the window
one pixel at a time, so a block costs K * K gathers of rows that the first-level cache mostly holds. The
gradients of keys and values come from a second kernel that walks over the pixels whose windows contain a
key: every sum has one owner, so the backward pass repeats to the bit.

Shapes: B images, M heads, H x W pixels, D channels, K window size. Inside a dilation group (one residue
modulo the dilation) pixels are numbered without gaps: G_h x G_w of them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from segcore.ops import reference

__all__ = ["backward", "forward"]

_BLOCK = 32  # pixels per program


@triton.jit
def _start(i, size, K: tl.constexpr):
    """First pixel of the window of pixel `i` along one axis of its group."""
    return tl.minimum(tl.maximum(i - K // 2, 0), size - K)


@triton.jit
def _block(height, width, dilation, BLOCK: tl.constexpr):
    """The program's pixels: rows, columns inside the group, the group's residues and sizes, and a mask."""
    group = tl.program_id(1)
    top = group // dilation
    left = group % dilation
    rows = (height - top + dilation - 1) // dilation
    columns = (width - left + dilation - 1) // dilation
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    return pixel // columns, pixel % columns, top, left, rows, columns, pixel < rows * columns


@triton.jit
def _offset(i, j, top, left, width, dilation, D: tl.constexpr):
    """Element offset of a pixel of the group inside its head's map."""
    return ((top + i * dilation) * width + left + j * dilation).to(tl.int64) * D


@triton.jit
def _rows(base, offset, lane, mask, D: tl.constexpr, dtype: tl.constexpr):
    inside = mask[:, None] & (lane[None, :] < D)
    return tl.load(base + offset[:, None] + lane[None, :], mask=inside, other=0.0).to(dtype)


@triton.jit
def _forward_kernel(
    query,
    key,
    value,
    rpb,
    output,
    log_sums,
    heads,
    height,
    width,
    dilation,
    scale,
    D: tl.constexpr,
    D_2: tl.constexpr,
    K: tl.constexpr,
    BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i, j, top, left, rows, columns, mask = _block(height, width, dilation, BLOCK)
    first_pixel = tl.program_id(2).to(tl.int64) * height * width
    map_start = first_pixel * D
    lane = tl.arange(0, D_2)
    dtype = log_sums.dtype.element_ty
    own = _offset(i, j, top, left, width, dilation, D)
    q = _rows(query + map_start, own, lane, mask, D, dtype) * tl.load(scale)
    first_row, first_column = _start(i, rows, K), _start(j, columns, K)
    SIDE: tl.constexpr = 2 * K - 1
    table = rpb + (tl.program_id(2) % heads) * SIDE * SIDE
    peak = tl.full([BLOCK], -float("inf"), dtype)
    total = tl.zeros([BLOCK], dtype)
    result = tl.zeros([BLOCK, D_2], dtype)
    for step in range(K * K):
        row, column = first_row + step // K, first_column + step % K
        at = _offset(row, column, top, left, width, dilation, D)
        logit = tl.sum(q * _rows(key + map_start, at, lane, mask, D, dtype), axis=1)
        if BIAS:
            cell = (row - i + K - 1) * SIDE + column - j + K - 1
            logit += tl.load(table + cell, mask=mask, other=0.0).to(dtype)
        # online softmax: sums so far are rescaled when the maximum grows
        higher = tl.maximum(peak, logit)
        shrink = tl.where(peak == -float("inf"), 0.0, tl.exp(peak - higher))
        prob = tl.exp(logit - higher)
        total = total * shrink + prob
        v = _rows(value + map_start, at, lane, mask, D, dtype)
        result = result * shrink[:, None] + prob[:, None] * v
        peak = higher
    result = result / total[:, None]
    inside = mask[:, None] & (lane[None, :] < D)
    tl.store(
        output + map_start + own[:, None] + lane[None, :], result.to(output.dtype.element_ty), mask=inside
    )
    tl.store(log_sums + first_pixel + own // D, peak + tl.log(total), mask=mask)


@triton.jit
def _query_kernel(
    grad,
    query,
    key,
    value,
    rpb,
    log_sums,
    deltas,
    grad_query,
    grad_logits,
    heads,
    height,
    width,
    dilation,
    scale,
    D: tl.constexpr,
    D_2: tl.constexpr,
    K: tl.constexpr,
    BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradients of the queries and, for the bias table, of every logit."""
    i, j, top, left, rows, columns, mask = _block(height, width, dilation, BLOCK)
    first_pixel = tl.program_id(2).to(tl.int64) * height * width
    map_start = first_pixel * D
    lane = tl.arange(0, D_2)
    dtype = log_sums.dtype.element_ty
    own = _offset(i, j, top, left, width, dilation, D)
    pixel = first_pixel + own // D
    q = _rows(query + map_start, own, lane, mask, D, dtype) * tl.load(scale)
    g = _rows(grad + map_start, own, lane, mask, D, dtype)
    log_sum = tl.load(log_sums + pixel, mask=mask, other=0.0)
    delta = tl.load(deltas + pixel, mask=mask, other=0.0)
    first_row, first_column = _start(i, rows, K), _start(j, columns, K)
    SIDE: tl.constexpr = 2 * K - 1
    table = rpb + (tl.program_id(2) % heads) * SIDE * SIDE
    result = tl.zeros([BLOCK, D_2], dtype)
    for step in range(K * K):
        row, column = first_row + step // K, first_column + step % K
        at = _offset(row, column, top, left, width, dilation, D)
        k = _rows(key + map_start, at, lane, mask, D, dtype)
        logit = tl.sum(q * k, axis=1)
        if BIAS:
            cell = (row - i + K - 1) * SIDE + column - j + K - 1
            logit += tl.load(table + cell, mask=mask, other=0.0).to(dtype)
        v = _rows(value + map_start, at, lane, mask, D, dtype)
        change = tl.exp(logit - log_sum) * (tl.sum(g * v, axis=1) - delta)
        result += change[:, None] * k
        if BIAS:
            tl.store(grad_logits + pixel * (K * K) + step, change, mask=mask)
    inside = mask[:, None] & (lane[None, :] < D)
    result = (result * tl.load(scale)).to(grad_query.dtype.element_ty)
    tl.store(grad_query + map_start + own[:, None] + lane[None, :], result, mask=inside)


@triton.jit
def _key_kernel(
    grad,
    query,
    key,
    value,
    rpb,
    log_sums,
    deltas,
    grad_key,
    grad_value,
    heads,
    height,
    width,
    dilation,
    scale,
    D: tl.constexpr,
    D_2: tl.constexpr,
    K: tl.constexpr,
    REACH: tl.constexpr,
    BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradients of keys and values, from the pixels whose windows contain them.

    There are at most K + K // 2 of them along an axis of 2 K pixels or more, because windows are shifted inwards
    at the borders; on a shorter axis every pixel may be one. REACH is that number.
    """
    i, j, top, left, rows, columns, mask = _block(height, width, dilation, BLOCK)
    first_pixel = tl.program_id(2).to(tl.int64) * height * width
    map_start = first_pixel * D
    lane = tl.arange(0, D_2)
    dtype = log_sums.dtype.element_ty
    own = _offset(i, j, top, left, width, dilation, D)
    k = _rows(key + map_start, own, lane, mask, D, dtype)
    v = _rows(value + map_start, own, lane, mask, D, dtype)
    first_row = tl.where(i < K, 0, i - K // 2)
    first_column = tl.where(j < K, 0, j - K // 2)
    SIDE: tl.constexpr = 2 * K - 1
    table = rpb + (tl.program_id(2) % heads) * SIDE * SIDE
    key_sum = tl.zeros([BLOCK, D_2], dtype)
    value_sum = tl.zeros([BLOCK, D_2], dtype)
    for step in range(REACH * REACH):
        row, column = first_row + step // REACH, first_column + step % REACH
        start_row, start_column = _start(row, rows, K), _start(column, columns, K)
        sees = mask & (row < rows) & (column < columns)
        sees = sees & (start_row <= i) & (i < start_row + K) & (start_column <= j) & (j < start_column + K)
        at = _offset(row, column, top, left, width, dilation, D)
        q = _rows(query + map_start, at, lane, sees, D, dtype) * tl.load(scale)
        g = _rows(grad + map_start, at, lane, sees, D, dtype)
        logit = tl.sum(q * k, axis=1)
        if BIAS:
            cell = (i - row + K - 1) * SIDE + j - column + K - 1
            logit += tl.load(table + cell, mask=sees, other=0.0).to(dtype)
        pixel = first_pixel + at // D
        log_sum = tl.load(log_sums + pixel, mask=sees, other=0.0)
        delta = tl.load(deltas + pixel, mask=sees, other=0.0)
        prob = tl.where(sees, tl.exp(logit - log_sum), 0.0)
        value_sum += prob[:, None] * g
        key_sum += (prob * (tl.sum(g * v, axis=1) - delta))[:, None] * q
    inside = mask[:, None] & (lane[None, :] < D)
    at = map_start + own[:, None] + lane[None, :]
    tl.store(grad_key + at, key_sum.to(grad_key.dtype.element_ty), mask=inside)
    tl.store(grad_value + at, value_sum.to(grad_value.dtype.element_ty), mask=inside)


def _grid(query: Tensor, dilation: int) -> tuple[int, int, int]:
    batch, heads, height, width, _ = query.shape
    pixels = triton.cdiv(height, dilation) * triton.cdiv(width, dilation)
    return triton.cdiv(pixels, _BLOCK), dilation * dilation, batch * heads


def _sizes(query: Tensor, kernel_size: int, rpb: Tensor | None) -> dict[str, int | bool]:
    channels = query.shape[-1]
    return {
        "D": channels,
        "D_2": triton.next_power_of_2(channels),
        "K": kernel_size,
        "BIAS": rpb is not None,
        "BLOCK": _BLOCK,
    }


def _reach(query: Tensor, kernel_size: int, dilation: int) -> int:
    """How many pixels along an axis of a dilation group can have a given pixel in their windows; see `_key_kernel`."""
    shortest = min(query.shape[2:4]) // dilation
    return kernel_size + kernel_size // 2 if shortest >= 2 * kernel_size else 2 * kernel_size - 1


def _scale(query: Tensor, scale: float) -> Tensor:
    """On the device, in the dtype of the sums: a kernel's plain number argument would be rounded to fp32."""
    return torch.full((1,), scale, dtype=reference.compute_dtype(query.dtype), device=query.device)


def _table(query: Tensor, rpb: Tensor | None) -> Tensor:
    """The bias table; without one the kernels never read it, and any pointer will do."""
    return query if rpb is None else rpb.to(reference.compute_dtype(query.dtype)).contiguous()


def _forward(query, key, value, kernel_size, dilation, table, biased, scale):
    _, heads, height, width, _ = query.shape
    output = torch.empty_like(query)
    log_sums = query.new_empty(query.shape[:-1], dtype=reference.compute_dtype(query.dtype))
    if query.numel() > 0:
        sizes = _sizes(query, kernel_size, table if biased else None)
        _forward_kernel[_grid(query, dilation)](
            query,
            key,
            value,
            table,
            output,
            log_sums,
            heads,
            height,
            width,
            dilation,
            _scale(query, scale),
            **sizes,
        )
    return output, log_sums


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: int,
    dilation: int,
    rpb: Tensor | None,
    scale: float,
) -> Tensor:
    """As `segcore_native::na_forward`."""
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    table = _table(query, rpb)
    return _forward(query, key, value, kernel_size, dilation, table, rpb is not None, scale)[0]


def _table_gradient(grad_logits: Tensor, kernel_size: int, dilation: int) -> Tensor:
    """Sums the logits' gradients (B, M, H, W, K * K) by relative position, in a fixed order.

    Positions along one axis depend on that axis alone, so two small matrix products do it.
    """
    _, _, height, width, _ = grad_logits.shape
    per_pixel = grad_logits.sum(0).unflatten(-1, (kernel_size, kernel_size))  # (M, H, W, K, K)
    placed = []
    for length in (height, width):
        _, bias = reference.window_starts(length, kernel_size, dilation, grad_logits.device)
        position = bias[:, None] + torch.arange(kernel_size, device=grad_logits.device)  # (length, K)
        cells = torch.arange(2 * kernel_size - 1, device=grad_logits.device)
        placed.append((position[..., None] == cells).to(grad_logits.dtype))  # (length, K, 2K - 1)
    columns_done = torch.einsum("mhwij,wjc->mhic", per_pixel, placed[1])
    return torch.einsum("mhic,hir->mrc", columns_done, placed[0])


def backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: int,
    dilation: int,
    rpb: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `segcore_native::na_backward`; the forward pass is repeated for its sums."""
    query, key, value, grad = query.contiguous(), key.contiguous(), value.contiguous(), grad.contiguous()
    _, heads, height, width, _ = query.shape
    table, biased = _table(query, rpb), rpb is not None
    output, log_sums = _forward(query, key, value, kernel_size, dilation, table, biased, scale)
    deltas = (output.to(log_sums.dtype) * grad).sum(-1)
    grads = [torch.empty_like(x) for x in (query, key, value)]
    count = kernel_size**2 if biased else 0
    grad_logits = log_sums.new_empty((*log_sums.shape, count))
    if query.numel() > 0:
        inputs = (grad, query, key, value, table, log_sums, deltas)
        shape = (heads, height, width, dilation, _scale(query, scale))
        sizes, grid = _sizes(query, kernel_size, rpb), _grid(query, dilation)
        _query_kernel[grid](*inputs, grads[0], grad_logits if biased else log_sums, *shape, **sizes)
        _key_kernel[grid](*inputs, *grads[1:], *shape, REACH=_reach(query, kernel_size, dilation), **sizes)
    if not biased:
        return *grads, query.new_empty(0)
    return *grads, _table_gradient(grad_logits, kernel_size, dilation).to(rpb.dtype)

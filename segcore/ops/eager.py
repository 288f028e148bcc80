"""The operators in plain PyTorch, written to be fast: what a machine without a compiler gets.

Shapes: as in `segcore.ops.reference`, with T = 4 * L * P bilinear taps per query and head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from segcore.ops import reference

__all__ = ["ms_deform_attn", "neighborhood_attention_2d"]

# Points whose index arithmetic is done at once on a CPU: a few megabytes.
_BLOCK_POINTS = 1 << 16
# Dense attention over a dilation group costs (tokens per group) ** 2; beyond this the gather form wins.
_DENSE_TOKENS = 4096
# Scores of one dense call stay below this many bytes.
_DENSE_BYTES = 256 << 20


def _pad_levels(value: Tensor, shapes: Sequence[int], dtype: torch.dtype) -> tuple[Tensor, list[list[int]]]:
    """Gives every level a border of zeros, two pixels wide.

    With corners bounded to [-2, size] all four taps of a point then exist, and no mask is needed.

    Returns:
        (B, S', M, D) and, for each level, [height, width, width with border, first token].
    """
    batch, _, heads, channels = value.shape
    levels, total, start = [], 0, 0
    for level in range(len(shapes) // 2):
        height, width = shapes[2 * level], shapes[2 * level + 1]
        levels.append([height, width, width + 4, total])
        total += (height + 4) * (width + 4)
    padded = value.new_zeros(batch, total, heads, channels, dtype=dtype)
    for height, width, stride, first in levels:
        plane = padded[:, first : first + (height + 4) * stride].unflatten(1, (height + 4, stride))
        source = value[:, start : start + height * width].unflatten(1, (height, width))
        plane[:, 2 : height + 2, 2 : width + 2] = source
        start += height * width
    return padded, levels


def ms_deform_attn(value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    """Deformable attention as one weighted `embedding_bag` over the bilinear taps of all levels and points.

    The same sum as `reference.ms_deform_attn`, without samples in memory; see `segcore.ops.ms_deform_attn`.
    """
    dtype = reference.compute_dtype(value.dtype)
    padded, levels = _pad_levels(value, shapes, dtype)
    tracked = torch.is_grad_enabled() and any(x.requires_grad for x in (value, locations, weights))
    if value.device.type != "cpu" or tracked or torch.compiler.is_compiling():
        # a loop over blocks would make a compiled graph one for this number of queries alone
        return _sample(padded, levels, locations.to(dtype), weights.to(dtype)).to(value.dtype)
    # blocks of queries whose index arithmetic stays in the cache
    step = max(1, _BLOCK_POINTS // max(1, locations.shape[0] * locations[0, 0, ..., 0].numel()))
    blocks = [
        _sample(padded, levels, locations[:, i : i + step].to(dtype), weights[:, i : i + step].to(dtype))
        for i in range(0, locations.shape[1], step)
    ]
    output = blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)
    return output.to(value.dtype)


def _sample(padded: Tensor, levels: list[list[int]], locations: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum for a block of queries; `padded` and `levels` as `_pad_levels` returns them.

    Arrays are (B * Q, N) with N = M * L * P points: broadcasting over short inner axes costs more than sums.
    """
    batch, tokens, heads, channels = padded.shape
    queries, count, points = locations.shape[1], len(levels) * locations.shape[4], locations.shape[4]
    # 32-bit indices halve the traffic of this memory-bound arithmetic
    index_dtype = torch.int32 if batch * tokens * heads < 2**31 else torch.int64

    def per_point(of_level, dtype: torch.dtype) -> Tensor:
        """(N,): a number of each point's level (and head)."""
        numbers = [of_level(*level, head) for head in range(heads) for level in levels for _ in range(points)]
        return torch.tensor(numbers, dtype=dtype, device=padded.device)

    locations = locations.reshape(batch * queries, heads * count, 2)
    corners, fractions = [], []
    for axis, size_of in enumerate((lambda h, w, *_: w, lambda h, w, *_: h)):
        size = per_point(size_of, padded.dtype)
        pixels = torch.addcmul(locations.new_tensor(-0.5), locations[..., axis], size)
        corner = torch.minimum(pixels.detach().clamp(min=-2), size).floor_()
        corners.append(corner.to(index_dtype))
        # of the unbounded coordinate: NaN and infinity stay, and far away it weighs the border's zeros
        fractions.append(pixels - corner)
    row = corners[1].mul_(per_point(lambda h, w, stride, first, head: stride * heads, index_dtype))
    row.add_(corners[0], alpha=heads)
    row.add_(
        per_point(lambda h, w, stride, first, head: (first + 2 * stride + 2) * heads + head, index_dtype)
    )
    if batch > 1:
        image = torch.arange(batch, dtype=index_dtype, device=padded.device) * (tokens * heads)
        row.view(batch, -1).add_(image[:, None])
    steps = [
        [(dy * stride + dx) * heads for _, _, stride, _ in levels for _ in range(points)]
        for dy in (0, 1)
        for dx in (0, 1)
    ]
    step = torch.tensor(steps, dtype=index_dtype, device=padded.device)  # (4, L * P)
    # NaN became some integer: any row will do, its weight is NaN
    row.clamp_(0, batch * tokens * heads - 1 - max(map(max, steps)))
    bags = batch * queries * heads
    rows = row.view(bags, 1, count) + step  # taps above left, above right, below left, below right

    right, weight = fractions[0].view(bags, count), weights.reshape(bags, count)
    below = fractions[1].view(bags, count) * weight
    columns = torch.stack((1 - right, right), 1)
    lines = torch.stack((weight - below, below), 1)
    tap_weights = lines[:, :, None] * columns[:, None]  # (bags, 2, 2, L * P)
    output = F.embedding_bag(
        rows.view(bags, -1),
        padded.view(batch * tokens * heads, channels),
        mode="sum",
        per_sample_weights=tap_weights.view(bags, -1),
    )
    return output.view(batch, queries, heads * channels)


def _dense_bias(height: int, width: int, kernel_size: int, rpb: Tensor | None, like: Tensor) -> Tensor:
    """(M or 1, H * W, H * W) additive bias: rpb inside each pixel's window, -inf outside (dilation 1)."""
    axes = []
    for length in (height, width):
        start, bias = reference.window_starts(length, kernel_size, 1, like.device)
        offset = torch.arange(length, device=like.device) - start[:, None]  # (length, length)
        inside = (offset >= 0) & (offset < kernel_size)
        axes.append((inside, (bias[:, None] + offset).clamp(0, 2 * kernel_size - 2)))
    (row_inside, row_bias), (column_inside, column_bias) = axes
    inside = (row_inside[:, None, :, None] & column_inside[None, :, None, :]).reshape(height * width, -1)
    if rpb is None:
        return torch.zeros_like(inside, dtype=like.dtype).masked_fill(~inside, -torch.inf)[None]
    table = rpb[:, row_bias[:, None, :, None], column_bias[None, :, None, :]]
    return table.flatten(3).flatten(1, 2).masked_fill(~inside, -torch.inf)


def neighborhood_attention_2d(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: int,
    dilation: int,
    rpb: Tensor | None,
    scale: float,
) -> Tensor:
    """Neighbourhood attention as dense attention with a -inf mask inside each dilation group.

    Pixels of different residues modulo the dilation never meet, so each group is a small map of its own.
    Large groups take the reference's gather form. See `segcore.ops.neighborhood_attention_2d`.
    """
    batch, heads, height, width, _ = query.shape
    tokens = -(-height // dilation) * -(-width // dilation)
    if tokens > _DENSE_TOKENS:
        return reference.neighborhood_attention_2d(query, key, value, kernel_size, dilation, rpb, scale)
    dtype = reference.compute_dtype(query.dtype)
    query, key, value = (x.to(dtype) for x in (query, key, value))
    rpb = None if rpb is None else rpb.to(dtype)
    output = torch.empty_like(query, memory_format=torch.contiguous_format)
    # few heads at a time: the scores and the bias of all of them can pass a gigabyte
    step = max(1, _DENSE_BYTES // (2 * batch * tokens * tokens * query.element_size()))
    biases: dict[tuple[int, int, int], Tensor] = {}
    for first in range(0, heads, step):
        for top in range(dilation):
            for left in range(dilation):
                rows_of_group, columns_of_group = slice(top, None, dilation), slice(left, None, dilation)
                group = (slice(None), slice(first, first + step), rows_of_group, columns_of_group)
                q, k, v = query[group], key[group], value[group]
                rows, columns = q.shape[2:4]
                if (first, rows, columns) not in biases:
                    part = None if rpb is None else rpb[first : first + step]
                    biases = {n: b for n, b in biases.items() if n[0] == first}
                    biases[first, rows, columns] = _dense_bias(rows, columns, kernel_size, part, q)
                attended = F.scaled_dot_product_attention(
                    q.flatten(2, 3),
                    k.flatten(2, 3),
                    v.flatten(2, 3),
                    attn_mask=biases[first, rows, columns],
                    scale=scale,
                )
                output[group] = attended.unflatten(2, (rows, columns))
    return output

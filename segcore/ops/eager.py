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

# Dense attention over a dilation group costs (tokens per group) ** 2; beyond this the gather form wins.
_DENSE_TOKENS = 4096
# Scores of one dense call stay below this many bytes.
_DENSE_BYTES = 256 << 20


def _axis_taps(coordinates: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Clamped pixel indices and linear weights of the two neighbours along one axis, stacked last.

    A neighbour outside the map gets weight * 0, not 0, so that NaN coordinates stay NaN.
    """
    pixels = coordinates * sizes - 0.5
    floor = pixels.detach().floor()
    fraction = pixels - floor
    index = torch.stack((floor, floor + 1), dim=-1)
    limit = sizes[..., None] - 1
    inside = (index >= 0) & (index <= limit)
    weight = torch.stack((1 - fraction, fraction), dim=-1)
    weight = torch.where(inside, weight, weight * 0)
    return torch.minimum(index.clamp(min=0).nan_to_num(0), limit), weight


def ms_deform_attn(value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    """Deformable attention as one weighted `embedding_bag` over the bilinear taps of all levels and points.

    The same sum as `reference.ms_deform_attn`, without samples in memory; see `segcore.ops.ms_deform_attn`.
    """
    batch, tokens, heads, channels = value.shape
    queries = locations.shape[1]
    levels = len(shapes) // 2
    dtype = reference.compute_dtype(value.dtype)
    device = value.device
    sizes = torch.tensor(list(shapes), dtype=dtype, device=device).view(levels, 2)
    height, width = sizes[:, 0, None], sizes[:, 1, None]  # (L, 1) against (B, Q, M, L, P)
    starts = [0]
    for level in range(levels - 1):
        starts.append(starts[-1] + shapes[2 * level] * shapes[2 * level + 1])
    start = torch.tensor(starts, dtype=torch.int64, device=device).view(levels, 1, 1, 1)

    column, column_weight = _axis_taps(locations[..., 0].to(dtype), width)
    row, row_weight = _axis_taps(locations[..., 1].to(dtype), height)
    # token number inside the image; the 2 x 2 taps are rows x columns
    token = (row.long() * width.long()[..., None])[..., :, None] + column.long()[..., None, :] + start
    tap_weight = row_weight[..., :, None] * column_weight[..., None, :] * weights.to(dtype)[..., None, None]

    image = torch.arange(batch, device=device).view(batch, 1, 1, 1, 1, 1, 1) * tokens
    head = torch.arange(heads, device=device).view(1, 1, heads, 1, 1, 1, 1)
    row_index = ((token + image) * heads + head).reshape(batch * queries * heads, -1)
    output = F.embedding_bag(
        row_index,
        value.to(dtype).reshape(batch * tokens * heads, channels),
        mode="sum",
        per_sample_weights=tap_weight.reshape(batch * queries * heads, -1),
    )
    return output.view(batch, queries, heads * channels).to(value.dtype)


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

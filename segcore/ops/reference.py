"""The operators in plain PyTorch, written to be read: the ground truth of every other backend.

Shapes:  B images, S tokens of all levels, Q queries, M heads, D channels per head, L levels, P points,
         H, W map size, K window size.
Coordinates: x right, y down; locations normalised to [0, 1] per level, pixel centres at +0.5.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ["ms_deform_attn", "neighborhood_attention_2d", "sampling_inputs", "window_starts"]

# The gather form repeats every key K * K times; bands of rows keep that below this many bytes.
_GATHER_BYTES = 64 << 20


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """fp64 stays; everything else is computed in fp32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def ms_deform_attn(value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    """Deformable attention by one `grid_sample` per level; see `segcore.ops.ms_deform_attn`."""
    batch, _, heads, channels = value.shape
    queries, levels, points = locations.shape[1], locations.shape[3], locations.shape[4]
    dtype = compute_dtype(value.dtype)
    # heads join the batch: (B * M, D, S) maps, (B * M, Q, L, P, 2) grids
    maps = value.to(dtype).permute(0, 2, 3, 1).reshape(batch * heads, channels, -1)
    grids = (2 * locations.to(dtype) - 1).transpose(1, 2).reshape(batch * heads, queries, levels, points, 2)
    sampled, start = [], 0
    for level in range(levels):
        height, width = shapes[2 * level], shapes[2 * level + 1]
        plane = maps[:, :, start : start + height * width].reshape(batch * heads, channels, height, width)
        sampled.append(
            F.grid_sample(
                plane, grids[:, :, level], mode="bilinear", padding_mode="zeros", align_corners=False
            )
        )
        start += height * width
    samples = torch.cat(sampled, dim=-1)  # (B * M, D, Q, L * P)
    scale = weights.to(dtype).transpose(1, 2).reshape(batch * heads, 1, queries, levels * points)
    output = (samples * scale).sum(-1).reshape(batch, heads * channels, queries)
    return output.transpose(1, 2).to(value.dtype)


def sampling_inputs(
    shapes: Sequence[int], reference_points: Tensor, offsets: Tensor, attention_logits: Tensor
) -> tuple[Tensor, Tensor]:
    """Locations and weights of the plain operator from the fused operator's inputs.

    Args:
        shapes: [h0, w0, h1, w1, ...].
        reference_points: (B, Q, L, 2), x then y, in [0, 1].
        offsets: (B, Q, M, L, P, 2), in pixels of their level.
        attention_logits: (B, Q, M, L, P).

    Returns:
        locations (B, Q, M, L, P, 2) and weights (B, Q, M, L, P), in fp32 (fp64 stays fp64).

    Source: Deformable DETR, arXiv:2010.04159, eq. 3 and appendix A.3.
    """
    dtype = compute_dtype(offsets.dtype)
    sizes = [[shapes[2 * level + 1], shapes[2 * level]] for level in range(len(shapes) // 2)]
    normaliser = torch.tensor(sizes, dtype=dtype, device=offsets.device)  # (L, 2): w, h
    locations = (
        reference_points.to(dtype)[:, :, None, :, None, :] + offsets.to(dtype) / normaliser[:, None, :]
    )
    weights = attention_logits.to(dtype).flatten(-2).softmax(-1).unflatten(-1, attention_logits.shape[-2:])
    return locations, weights


def window_starts(length: int, kernel_size: int, dilation: int, device=None) -> tuple[Tensor, Tensor]:
    """First pixel of each pixel's window along one axis, and where its row of the bias table begins.

    A window holds K pixels of the same residue modulo the dilation (a "dilation group"). It is centred where
    it fits and shifted inwards at the borders, so that it always holds K real pixels.

    Returns:
        start (length,): index of the window's first pixel; its pixels are start + dilation * 0..K-1.
        bias (length,): index, in 0..2K-2, of the relative position of that first pixel.

    Source: NATTEN, arXiv:2204.07143, and DiNAT, arXiv:2209.15001 (the conventions of NATTEN 0.14).
    """
    position = torch.arange(length, device=device)
    residue, step = position % dilation, position // dilation
    group_size = (length - residue + dilation - 1) // dilation
    first = torch.minimum((step - kernel_size // 2).clamp(min=0), group_size - kernel_size)
    return first * dilation + residue, first - step + kernel_size - 1


def neighborhood_attention_2d(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: int,
    dilation: int,
    rpb: Tensor | None,
    scale: float,
) -> Tensor:
    """Neighbourhood attention by gathering each pixel's window; see `segcore.ops.neighborhood_attention_2d`.

    Works on bands of rows, and recomputes a band in the backward pass, so that the gathered keys and values
    (K * K times the map) never exist at once.
    """
    batch, heads, height, width, channels = query.shape
    dtype = compute_dtype(query.dtype)
    query, key, value = (x.to(dtype) for x in (query, key, value))
    rpb = None if rpb is None else rpb.to(dtype)
    row_start, row_bias = window_starts(height, kernel_size, dilation, query.device)
    column_start, column_bias = window_starts(width, kernel_size, dilation, query.device)
    reach = torch.arange(kernel_size, device=query.device)
    columns = column_start[:, None] + dilation * reach  # (W, K)
    bias_columns = column_bias[:, None] + reach

    def band(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, top: int, bottom: int) -> Tensor:
        rows = row_start[top:bottom, None] + dilation * reach  # (R, K)
        index = (rows[:, None, :, None], columns[None, :, None, :])  # broadcast: (R, W, K, K)
        keys, values = k[:, :, index[0], index[1]], v[:, :, index[0], index[1]]  # (B, M, R, W, K, K, D)
        logits = torch.einsum("bmrwd,bmrwijd->bmrwij", q[:, :, top:bottom] * scale, keys)
        if bias is not None:
            bias_rows = row_bias[top:bottom, None] + reach
            logits = logits + bias[:, bias_rows[:, None, :, None], bias_columns[None, :, None, :]]
        probs = logits.flatten(-2).softmax(-1).unflatten(-1, (kernel_size, kernel_size))
        return torch.einsum("bmrwij,bmrwijd->bmrwd", probs, values)

    row_bytes = batch * heads * width * kernel_size**2 * channels * query.element_size()
    step = max(1, _GATHER_BYTES // max(row_bytes, 1))
    tracked = torch.is_grad_enabled() and any(
        x is not None and x.requires_grad for x in (query, key, value, rpb)
    )
    bands = []
    for top in range(0, height, step):
        arguments = (query, key, value, rpb, top, min(top + step, height))
        bands.append(checkpoint(band, *arguments, use_reentrant=False) if tracked else band(*arguments))
    return torch.cat(bands, dim=2)

"""Attention to all pixels of a map whose values are a row's part plus a column's.

With weights p(y, x), the softmax of the scores,

    sum over (y, x) of p(y, x) (rows[y] + columns[x])
      = sum over y of (sum over x of p(y, x)) rows[y] + sum over x of (sum over y of p(y, x)) columns[x],

so that the product of weights and values, half of attention's arithmetic, becomes two sums of weights. The native CPU
kernel (csrc/ga_cpu_kernel.h) does this a row at a time and keeps no scores; elsewhere, and where gradients are wanted,
the values are made and PyTorch's attention is called.

The kernel rounds otherwise than PyTorch's attention, with which published outputs were made; so it is a choice of the
caller, see `segcore.ops.fastest`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor

from segcore.ops.native import suits_native
from segcore.ops.switch import held

__all__ = ["grid_attention", "use_row_sums"]

_USE = [False]


def use_row_sums(use: bool) -> AbstractContextManager[None]:
    """Inside the block, `grid_attention` may (True) or may not (False) sum the weights of rows and columns."""
    return held(_USE, use)


def grid_attention(query: Tensor, key: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """softmax(query key^T / sqrt(D)) value, where the value of pixel (y, x) is rows[y] + columns[x].

    Args:
        query: (N, heads, Q, D).
        key: (N, heads, H * W, D), the pixels row by row.
        rows: (H, heads, D).
        columns: (W, heads, D).

    Returns:
        (N, heads, Q, D).

    Raises:
        ValueError: if the shapes do not belong together.
    """
    images, heads, _, dim = query.shape
    if rows.shape[1:] != (heads, dim) or columns.shape[1:] != (heads, dim):
        raise ValueError(f"rows {tuple(rows.shape)} and columns {tuple(columns.shape)}; expected (.., {heads}, {dim})")
    height, width = rows.shape[0], columns.shape[0]  # not len(): it would fix an exported model's sizes
    if key.shape != (images, heads, height * width, dim):
        raise ValueError(
            f"key {tuple(key.shape)}; expected {(images, heads, height * width, dim)} for a map of {height} x {width}"
        )
    if _USE[0] and suits_native(query, key, rows, columns):
        return torch.ops.segcore_native.grid_attention(query, key, rows, columns)
    value = (rows[:, None] + columns).flatten(0, 1).transpose(0, 1)
    return F.scaled_dot_product_attention(query, key, value.expand(images, -1, -1, -1))

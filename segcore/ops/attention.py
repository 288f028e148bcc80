"""Attention with a mask or a bias, for heads of few channels on a CPU.

PyTorch's attention reaches a fifth of what a core can multiply when a head has 32 channels. The native kernel
(csrc/ma_cpu_kernel.h) takes a block of queries as the lanes of its vectors; elsewhere, and where gradients are wanted,
PyTorch's is called.

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

__all__ = ["attention", "use_query_lanes"]

_USE = [False]
_MOST_CHANNELS = 64  # of a head: with more, PyTorch's kernel multiplies as fast


def use_query_lanes(use: bool) -> AbstractContextManager[None]:
    """Inside the block, `attention` may (True) or may not (False) call the native kernel."""
    return held(_USE, use)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """softmax(scale query key^T + bias + mask) value.

    Args:
        query: (N, heads, Q, D).
        key, value: (N, heads, S, D).
        mask: (N, 1, Q, S): bool, True where a query may look, which must be somewhere; or numbers added to the scores.
        bias: (1, heads, Q, S), added to the scores.
        scale: 1 / sqrt(D) by default.

    Returns:
        (N, heads, Q, D).

    Raises:
        RuntimeError: if the shapes do not belong together.
    """
    added = mask if mask is not None and mask.dtype != torch.bool else None
    if _USE[0] and query.shape[-1] <= _MOST_CHANNELS and suits_native(query, key, value, bias, added):
        of_head = None if bias is None else bias[0].mT.contiguous()
        of_image = None if mask is None else mask[:, 0].mT.contiguous()
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        return torch.ops.segcore_native.masked_attention(query, key, value, of_head, of_image, scale)
    if bias is not None:
        mask = (bias if mask is None else bias + mask).to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)

"""Neighbourhood attention on a 2-D map: the public functions, their checks and their dispatch.

Source: NATTEN, arXiv:2204.07143; dilation: DiNAT, arXiv:2209.15001.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segcore.ops import eager, library_neighborhood, reference
from segcore.ops.backend import choose_backend

__all__ = ["neighborhood_attention_2d", "pad_to_window"]


def pad_to_window(x: Tensor, kernel_size: int, dilation: int = 1) -> Tensor:
    """Zero-pad a channels-last map, right and bottom, to at least kernel_size * dilation pixels a side.

    The released DiNAT weights expect this *before* the query/key/value projection, so that padded keys carry
    its bias; crop the attention's output to the old size afterwards.

    Args:
        x: (B, H, W, C).

    Returns:
        (B, max(H, K * dilation), max(W, K * dilation), C); `x` itself when it is large enough.
    """
    least = kernel_size * dilation
    bottom, right = max(0, least - x.shape[1]), max(0, least - x.shape[2])
    return F.pad(x, (0, 0, 0, right, 0, bottom)) if bottom or right else x


def _check(
    query: Tensor, key: Tensor, value: Tensor, kernel_size: int, dilation: int, rpb: Tensor | None
) -> None:
    if query.dim() != 5:
        raise ValueError(f"query must be (batch, heads, height, width, channels); got {tuple(query.shape)}")
    if key.shape != query.shape or value.shape != query.shape:
        raise ValueError(
            f"query, key and value must have one shape; got {tuple(query.shape)}, {tuple(key.shape)}, "
            f"{tuple(value.shape)}"
        )
    if not query.is_floating_point() or key.dtype != query.dtype or value.dtype != query.dtype:
        raise TypeError(
            f"query, key and value must have one floating dtype; got {query.dtype}, {key.dtype}, "
            f"{value.dtype}"
        )
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd and positive; got {kernel_size}")
    if dilation < 1:
        raise ValueError(f"dilation must be at least 1; got {dilation}")
    height, width = query.shape[2:4]
    if min(height, width) < kernel_size * dilation:
        raise ValueError(
            f"a {height} x {width} map is smaller than kernel_size * dilation = {kernel_size} * {dilation}; "
            "pad it first (segcore.ops.pad_to_window, before the query/key/value projection)"
        )
    side = 2 * kernel_size - 1
    if rpb is not None and tuple(rpb.shape) != (query.shape[1], side, side):
        expected = (query.shape[1], side, side)
        raise ValueError(f"rpb must be (heads, 2K-1, 2K-1) = {expected}; got {tuple(rpb.shape)}")


def neighborhood_attention_2d(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: int,
    dilation: int = 1,
    rpb: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Attention of each pixel to the K x K pixels around it, at a step of `dilation` pixels.

    Windows are shifted inwards at the borders, so that each holds K * K real pixels.

    Args:
        query, key, value: (B, heads, H, W, D), one floating dtype; H and W at least kernel_size * dilation.
        kernel_size: K, odd.
        dilation: step between the pixels of a window.
        rpb: (heads, 2K-1, 2K-1), added to the logits by relative position (row, column; no offset at K-1),
            or None.
        scale: factor of the logits before rpb; default D ** -0.5.

    Returns:
        (B, heads, H, W, D), the dtype of `query`; sums run in fp32 (fp64 for fp64).

    Raises:
        TypeError: if the dtypes disagree.
        ValueError: if the shapes disagree, K is even, or the map is too small (`pad_to_window`).

    Source: NATTEN, arXiv:2204.07143; DiNAT, arXiv:2209.15001.
    """
    _check(query, key, value, kernel_size, dilation, rpb)
    scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
    rpb = None if rpb is None else rpb.to(reference.compute_dtype(query.dtype))
    backend = choose_backend(query.device.type, library_neighborhood.MISSING)
    with torch.autocast(query.device.type, enabled=False):
        if backend in ("reference", "torch"):
            form = reference if backend == "reference" else eager
            output = form.neighborhood_attention_2d(query, key, value, kernel_size, dilation, rpb, scale)
            return output.to(query.dtype)
        return torch.ops.segcore.neighborhood_attention_2d(
            query, key, value, kernel_size, dilation, rpb, scale
        )

"""Multi-scale deformable attention: the public functions, their checks and their dispatch.

Source: Deformable DETR, arXiv:2010.04159, eq. 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segcore.ops import eager, library, reference  # noqa: F401 (library registers torch.ops.segcore)
from segcore.ops.backend import choose_backend

__all__ = ["ms_deform_attn", "ms_deform_attn_fused"]


def _check_levels(value: Tensor, shapes: Sequence[int]) -> None:
    if isinstance(shapes, Tensor):
        raise TypeError(
            "shapes is a tensor; pass Python ints, [h0, w0, h1, w1, ...] (a tensor would synchronise)"
        )
    if len(shapes) == 0 or len(shapes) % 2:
        raise ValueError(f"shapes must be [h0, w0, h1, w1, ...], an even number of ints; got {list(shapes)}")
    if value.dim() != 4:
        raise ValueError(f"value must be (batch, tokens, heads, channels); got shape {tuple(value.shape)}")
    if not value.is_floating_point():
        raise TypeError(f"value must be floating point; got {value.dtype}")
    total = sum(shapes[i] * shapes[i + 1] for i in range(0, len(shapes), 2))
    if total != value.shape[1]:
        raise ValueError(
            f"sum of level sizes is {total} but value has {value.shape[1]} tokens; shapes={list(shapes)}"
        )


def _check_points(value: Tensor, shapes: Sequence[int], name: str, points: Tensor, weights: Tensor) -> None:
    expected = (value.shape[0], points.shape[1] if points.dim() > 1 else -1, value.shape[2], len(shapes) // 2)
    if points.dim() != 6 or tuple(points.shape[:4]) != expected or points.shape[5] != 2:
        raise ValueError(
            f"{name} must be (batch, queries, heads, levels, points, 2) with batch {value.shape[0]}, heads "
            f"{value.shape[2]} and levels {len(shapes) // 2}; got shape {tuple(points.shape)}"
        )
    if weights.shape != points.shape[:5]:
        raise ValueError(
            f"weights must be (batch, queries, heads, levels, points) = {tuple(points.shape[:5])}; "
            f"got {tuple(weights.shape)}"
        )
    if points.device != value.device or weights.device != value.device:
        raise ValueError(f"tensors on different devices: {value.device}, {points.device}, {weights.device}")


def ms_deform_attn(value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted bilinear sampling from several feature maps.

    Args:
        value: (B, S, heads, D), float; the levels flattened and concatenated.
        shapes: [h0, w0, h1, w1, ...] in Python ints (a tensor would synchronise).
        locations: (B, Q, heads, L, P, 2), x then y, in [0, 1]; outside samples 0. Best in fp32: half
            precision moves a point of a 256-pixel level by up to half a pixel.
        weights: (B, Q, heads, L, P), usually summing to 1 over L * P.

    Returns:
        (B, Q, heads * D), the dtype of `value`; sums run in fp32 (fp64 for fp64).

    Raises:
        TypeError: if `shapes` is a tensor or `value` is not floating point.
        ValueError: if sum(h * w) != S or the shapes disagree.
        RuntimeError: if the backend that was asked for cannot run.

    Source: Deformable DETR, arXiv:2010.04159, eq. 3.
    """
    _check_levels(value, shapes)
    _check_points(value, shapes, "locations", locations, weights)
    dtype = reference.compute_dtype(value.dtype)
    locations, weights = locations.to(dtype), weights.to(dtype)
    backend = choose_backend(value.device.type)
    if locations.numel() == 0:  # no image or no query; the sum keeps the (zero) gradients defined
        shape = (locations.shape[0], locations.shape[1], value.shape[2] * value.shape[3])
        return value.new_zeros(shape) + (value.sum() + locations.sum() + weights.sum())
    with torch.autocast(value.device.type, enabled=False):
        if backend == "reference":
            return reference.ms_deform_attn(value, shapes, locations, weights)
        if backend == "torch":  # left open to the compiler: inductor fuses its index arithmetic
            return eager.ms_deform_attn(value, shapes, locations, weights)
        return torch.ops.segcore.ms_deform_attn(value, shapes, locations, weights)


def ms_deform_attn_fused(
    value: Tensor,
    shapes: Sequence[int],
    reference_points: Tensor,
    offsets: Tensor,
    attention_logits: Tensor,
) -> Tensor:
    """Softmax, sampling locations and `ms_deform_attn` in one pass.

    Args:
        value: (B, S, heads, D), float; the levels flattened and concatenated.
        shapes: [h0, w0, h1, w1, ...] in Python ints.
        reference_points: (B or 1, Q, L, 2), x then y, in [0, 1].
        offsets: (B, Q, heads, L, P, 2), in pixels of their level.
        attention_logits: (B, Q, heads, L, P); softmax runs over L * P.

    Returns:
        (B, Q, heads * D), the dtype of `value`: `ms_deform_attn` at reference + offset / (w, h) with the
        softmaxed weights. Geometry and softmax are fp32 (fp64 for fp64 values).

    Raises: as `ms_deform_attn`.
    """
    _check_levels(value, shapes)
    _check_points(value, shapes, "offsets", offsets, attention_logits)
    batch, queries, levels = offsets.shape[0], offsets.shape[1], len(shapes) // 2
    if tuple(reference_points.shape) not in ((batch, queries, levels, 2), (1, queries, levels, 2)):
        raise ValueError(
            f"reference_points must be (batch or 1, queries, levels, 2) = {(batch, queries, levels, 2)}; "
            f"got {tuple(reference_points.shape)}"
        )
    dtype = reference.compute_dtype(value.dtype)
    reference_points, offsets, attention_logits = (
        x.to(dtype) for x in (reference_points, offsets, attention_logits)
    )
    if choose_backend(value.device.type) not in ("reference", "torch") and offsets.numel() > 0:
        with torch.autocast(value.device.type, enabled=False):
            return torch.ops.segcore.ms_deform_attn_fused(
                value, shapes, reference_points, offsets, attention_logits
            )
    with torch.autocast(value.device.type, enabled=False):
        locations, weights = reference.sampling_inputs(shapes, reference_points, offsets, attention_logits)
    return ms_deform_attn(value, shapes, locations, weights)

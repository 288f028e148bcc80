"""Convolutions and group normalisation of large maps that leave their result in the memory of their input.

A stride-4 map of 256 channels has 26 MB for a picture of 640 x 640. Fresh memory of that size costs several
milliseconds, more than many layers compute, so where nothing has gradients a layer writes over its input, in strips.
Each function returns the result and may have used up its input: call it as `x = function(x, ...)`.

Where `use_onednn` chose oneDNN, the map is channels last and the native kernels are there; elsewhere each is PyTorch's
layer. The 3 x 3 convolution is Winograd's (arXiv:1509.09308), with 16 products in place of 36, which rounds otherwise.

Shapes:  B images, C channels, H, W a map's size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcore.ops.linear import linear, uses_onednn
from segcore.ops.native import suits_native
from segcore.ops.precision import is_rounded

__all__ = ["consume_conv", "consume_norm"]

_STRIP = 640  # tiles, and pixels / 4, of a strip: its products stay in the cache


def consume_conv(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """conv(x), without what Detectron2's layers of this class do after it (norm, activation).

    Args:
        x: (B, C, H, W).
        conv: of any size; written over x where it is 1 x 1 or 3 x 3, plain, and keeps the channels.
    """
    # a rounded product is fast as it is, and sums of inputs lose more than inputs by rounding
    if not _keeps_shape(conv) or is_rounded(x, conv.weight) or not _serves(x, conv.weight, conv.bias):
        return nn.Conv2d.forward(conv, x)
    for image in x.permute(0, 2, 3, 1):
        if conv.kernel_size == (1, 1):
            _multiply(image.flatten(0, 1), conv.weight.flatten(1), conv.bias)
        else:
            _filter(image, torch.ops.segcore_native.winograd_kernels(conv.weight), conv.bias)
    return x


def consume_norm(x: Tensor, norm: nn.GroupNorm | None, *, relu: bool = False, add: Tensor | None = None) -> Tensor:
    """norm(x), and then its positive part, or the sum with a coarser map, enlarged bilinearly.

    Args:
        x: (B, C, H, W).
        norm: None for none.
        relu, add: what follows, one of them or none; add: (B, C, h, w).
    """
    if norm is not None and _serves(x, norm.weight, norm.bias, add):
        rows = None if add is None else add.permute(0, 2, 3, 1).contiguous()
        torch.ops.segcore_native.group_norm_(
            x.permute(0, 2, 3, 1), norm.num_groups, norm.weight, norm.bias, norm.eps, relu, rows
        )
        return x
    if norm is not None:
        x = norm(x)
    if add is not None:
        x.add_(F.interpolate(add, size=x.shape[-2:], mode="bilinear", align_corners=False))
    return F.relu_(x) if relu else x


def _multiply(pixels: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    for strip in pixels.split(4 * _STRIP):
        strip.copy_(linear(strip, weight, bias))


def _filter(image: Tensor, kernels: Tensor, bias: Tensor | None) -> None:
    """Winograd's convolution of a map (H, W, C), strip by strip; a strip needs the last row before it as it was."""
    native, (height, width, channels) = torch.ops.segcore_native, image.shape
    rows = max(4 * _STRIP // width // 2 * 2, 2)
    above = torch.zeros_like(image[0])
    # one tile more than a strip has: without it a tile's 16 numbers would lie in one set of the cache
    tiles = image.new_empty(16, (rows + 1) // 2 * ((width + 1) // 2) + 1, channels)
    for first in range(0, height, rows):
        count = min(rows, height - first)
        native.winograd_spread(image, first, count, above, tiles)
        above = image[first + count - 1].clone()
        of_strip = tiles[:, : (count + 1) // 2 * ((width + 1) // 2)]
        products = [linear(numbers, kernel) for numbers, kernel in zip(of_strip, kernels)]
        native.winograd_gather_(image, first, count, products)
        if bias is not None:
            image[first : first + count].add_(bias)


def _keeps_shape(conv: nn.Conv2d) -> bool:
    side = conv.kernel_size[0]
    plain = conv.stride == conv.dilation == (1, 1) and conv.groups == 1 and conv.padding_mode == "zeros"
    return (
        plain
        and conv.in_channels == conv.out_channels
        and conv.kernel_size == (side, side)
        and side in (1, 3)
        and conv.padding == (side // 2, side // 2)
    )


def _serves(x: Tensor, *others: Tensor | None) -> bool:
    return uses_onednn() and suits_native(x, *others) and x.numel() > 0 and x.permute(0, 2, 3, 1).is_contiguous()

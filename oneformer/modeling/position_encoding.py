"""Sine position encoding of a feature map (DETR, arXiv:2005.12872, appendix A.4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _axis_encoding(length: int, channels: int, temperature: float, device: torch.device) -> Tensor:
    """(length, channels): sines at even, cosines at odd channels of positions scaled to (0, 2 pi]."""
    position = torch.arange(1, length + 1, dtype=torch.float32, device=device)
    position = position / (length + 1e-6) * (2 * math.pi)
    pair = torch.arange(channels, dtype=torch.float32, device=device) // 2
    angle = position[:, None] / temperature ** (2 * pair / channels)
    return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1)


def sine_position_encoding(
    height: int, width: int, channels: int, device: torch.device, temperature: float = 10000.0
) -> Tensor:
    """Position encoding of every cell of a map.

    Returns:
        (1, channels, height, width) float32; the first half of the channels
        encodes y, the second x.

    Raises:
        ValueError: if `channels` is not a multiple of 4 (a sine and a cosine for each axis).
    """
    tokens = sine_position_tokens(height, width, channels, device, temperature)
    return tokens.T.unflatten(1, (height, width))[None].contiguous()


def sine_position_tokens(
    height: int, width: int, channels: int, device: torch.device, temperature: float = 10000.0
) -> Tensor:
    """The same with cells in rows: (height * width, channels). Raises the same."""
    if channels % 4:
        raise ValueError(f"a sine position encoding needs channels divisible by 4, got {channels}")
    y, x = axis_encodings(height, width, channels, device, temperature)
    grid = torch.cat((y[:, None].expand(-1, width, -1), x[None].expand(height, -1, -1)), dim=2)
    return grid.flatten(0, 1)


def axis_encodings(
    height: int, width: int, channels: int, device: torch.device, temperature: float = 10000.0
) -> tuple[Tensor, Tensor]:
    """The two halves that `sine_position_encoding` is made of: (height, channels / 2), (width, channels / 2)."""
    half = channels // 2
    return tuple(_axis_encoding(side, half, temperature, device) for side in (height, width))

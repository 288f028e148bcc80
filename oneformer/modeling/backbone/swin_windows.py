"""Swin's attention windows without intermediate copies (arXiv:2103.14030, sec. 3.2).

Padding, cyclic shift and partition are one gather of tokens, their reversal another; the attention
itself, relative position bias and shift mask included, is one fused call.

Shapes:  B images, H, W tokens of the map, C channels, M heads, N = window ** 2 tokens of a window,
         V windows.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.modeling.backbone.swin import SwinTransformerBlock, WindowAttention
from torch import Tensor, nn

from segcore.ops import attention

from ..layers import TOKENS_AT_ONCE, added, few_at_once, in_token_chunks

ACROSS = -100.0  # added to the attention logits of tokens that the cyclic shift brought together


@dataclass(frozen=True)
class Windows:
    """Which tokens form the windows of an H x W map.

    Attributes:
        tokens: (V * N,) int64, index of each window's tokens; H * W stands for padding.
        places: (H * W,) int64, where each token lies among them.
        padded: whether padding occurs.
        mask: (V, 1, N, N) float32, 0 or `ACROSS`; None without a shift.
    """

    tokens: Tensor
    places: Tensor
    padded: bool
    mask: Tensor | None

    @classmethod
    def of(cls, height: int, width: int, window: int, shift: int, device: torch.device) -> Windows:
        rows, row_regions = _axis(height, window, shift, device)
        columns, column_regions = _axis(width, window, shift, device)

        def partition(x: Tensor) -> Tensor:
            x = x.unflatten(1, (-1, window)).unflatten(0, (-1, window))
            return x.transpose(1, 2).reshape(-1, window * window)

        outside = (rows >= height)[:, None] | (columns >= width)
        grid = (rows[:, None] * width + columns).masked_fill(outside, height * width)
        tokens = partition(grid).flatten()
        places = torch.empty(height * width + 1, dtype=torch.int64, device=device)
        places = places.scatter_(0, tokens, torch.arange(tokens.numel(), device=device))[:-1]
        mask = None
        if shift:
            regions = partition(row_regions[:, None] * 3 + column_regions)
            apart = regions[:, None, :] != regions[:, :, None]
            # Not zeros(apart.shape): in an ONNX file of any size only `apart` itself has the right shape.
            mask = torch.where(apart, ACROSS, 0.0)[:, None]
        # An exported graph whose size is open pads always: whether it must is known when it runs.
        padded = isinstance(height, torch.SymInt) or tokens.numel() != height * width
        return cls(tokens, places, padded, mask)


def _axis(length: int, window: int, shift: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where the shifted, padded axis reads from, and the region (0, 1, 2) of each of its places."""
    padded = (length + window - 1) // window * window  # no negative numbers: ONNX rounds their quotients to 0
    place = torch.arange(padded, device=device)
    regions = (place >= padded - window).long() + (place >= padded - shift).long()
    return torch.cat((place[shift:], place[:shift])), regions


class WindowBlock(SwinTransformerBlock):
    """A Swin block that takes its windows ready-made."""

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """(B, H * W, C) -> the same."""
        x = added(self.drop_path(self.attn(x, windows, self.norm1)), x)
        return added(self.drop_path(in_token_chunks(lambda tokens: self.mlp(self.norm2(tokens)), x)), x)


class FusedWindowAttention(WindowAttention):
    """Attention within ready-made windows."""

    def forward(self, x: Tensor, windows: Windows, norm: nn.Module) -> Tensor:
        """(B, H * W, C), which `norm` normalises before -> (B, H * W, C)."""
        size = self.window_size[0] * self.window_size[1]
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        bias = bias.view(size, size, -1).permute(2, 0, 1)[None]
        if few_at_once(x):
            return self._attend_in_parts(x, windows, norm, bias)
        x = norm(x)
        # Compiled, whether there is padding must not decide: the same code serves every size.
        if torch.compiler.is_compiling() or windows.padded:
            x = F.pad(x, (0, 0, 0, 1))
        attended = self._attend(x.index_select(1, windows.tokens), bias, windows.mask)
        return attended.index_select(1, windows.places)

    def _attend_in_parts(self, x: Tensor, windows: Windows, norm: nn.Module, bias: Tensor) -> Tensor:
        """`forward` for some windows at a time: nothing is made at the size of the map but the result."""
        padding, size = x.shape[1], bias.shape[-1]
        step = max(1, TOKENS_AT_ONCE // (len(x) * size))
        masks = windows.mask.split(step) if windows.mask is not None else itertools.repeat(None)
        out = None
        for tokens, mask in zip(windows.tokens.split(step * size), masks):
            part = norm(x.index_select(1, tokens.clamp(max=padding - 1)))
            if windows.padded:
                part.masked_fill_((tokens == padding)[:, None], 0)
            part = self._attend(part, bias, mask)
            if out is None:
                out = part.new_empty(len(x), padding + 1, part.shape[2])   # a last row takes what padding finds
            out.index_copy_(1, tokens, part)
            del part
        return out[:, :-1]

    def _attend(self, x: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
        """(B, n * N, C), the tokens of n windows, with `bias` (1, M, N, N) and `mask` (n, 1, N, N) -> the same."""
        batch, size = len(x), bias.shape[-1]
        qkv = self.qkv(x).view(-1, size, 3, self.num_heads, x.shape[2] // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        if mask is not None:
            mask = mask.repeat(batch, 1, 1, 1)
        attended = attention(query, key, value, mask, bias=bias, scale=self.scale)
        attended = attended.transpose(1, 2)
        if torch.compiler.is_compiling():
            # The kernel's output lies transposed in memory, its decomposition's does not: no view holds for both.
            attended = attended.clone(memory_format=torch.contiguous_format)
        return self.proj(attended.reshape(batch, -1, x.shape[2]))

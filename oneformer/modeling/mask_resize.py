"""Mask logits at the size of the result, whole or window by window, and bounds of them without computing any.

Shapes:  Q queries, h, w size of the mask logits, H, W size of the result; a tile is `TILE` x `TILE`
         pixels of the result, less at the right and lower border; I, J tile rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segcore.ops.native import suits_native

TILE = 16
# A value between neighbours stays between them but for rounding. What a bound decides, it decides by this margin.
ROUNDING = 1e-4


class _Taps(NamedTuple):
    """One axis of a bilinear resize: output i = (1 - weight[i]) * x[low[i]] + weight[i] * x[high[i]]."""

    low: Tensor
    high: Tensor
    weight: Tensor

    def at(self, chosen: slice | Tensor) -> _Taps:
        return _Taps(self.low[chosen], self.high[chosen], self.weight[chosen])

    def moved(self, by: int) -> _Taps:
        return _Taps(self.low + by, self.high + by, self.weight)


@lru_cache(maxsize=64)
def _taps(size: int, output_size: int, device: torch.device) -> _Taps:
    """As `F.interpolate(mode="bilinear", align_corners=False)` finds them, to the bit: in fp32, scaling and
    shift rounded once, for which they are computed in fp64."""
    with torch.inference_mode(False):   # kept for callers in any mode
        scale = (torch.tensor(float(size)) / torch.tensor(float(output_size))).double()
        place = ((torch.arange(output_size, dtype=torch.float64) + 0.5) * scale - 0.5).float().clamp(min=0)
        low = place.floor().long().clamp(max=size - 1)
        weight = (place - low).clamp(0, 1)
        return _Taps(low.to(device), (low + 1).clamp(max=size - 1).to(device), weight.to(device))


def _interpolate(x: Tensor, dim: int, taps: _Taps) -> Tensor:
    weight = taps.weight[:, None] if dim == 1 else taps.weight
    # The order of F.interpolate's fused multiply-add, which keeps the result equal to the bit.
    return x.index_select(dim, taps.high).mul_(weight).addcmul_(x.index_select(dim, taps.low), 1 - weight)


@dataclass(frozen=True)
class Bounds:
    """Least and greatest mask logit that each query can have in each tile of the result, (Q, I, J) each."""

    least: Tensor
    greatest: Tensor


@dataclass(frozen=True)
class MaskResizer:
    """Mask logits of the padded input -> the size of the result.

    As the released models are evaluated: bilinear to the padded input size, crop to the image,
    bilinear to the output size. All sizes are (height, width) in pixels.
    """

    padded_size: tuple[int, int]
    image_size: tuple[int, int]
    output_size: tuple[int, int]

    @classmethod
    def unchanged(cls, size: tuple[int, int]) -> MaskResizer:
        """For masks that have the size of the result already."""
        return cls(size, size, size)

    def __call__(self, masks: Tensor) -> Tensor:
        """(n, h, w) logits -> (n, *output_size)."""
        if len(masks) == 0:
            return masks.new_zeros((0, *self.output_size))
        x = F.interpolate(masks[None], size=self.padded_size, mode="bilinear", align_corners=False)
        x = x[:, :, : self.image_size[0], : self.image_size[1]]
        return F.interpolate(x, size=self.output_size, mode="bilinear", align_corners=False)[0]

    def window(
        self, masks: Tensor, rows: slice, columns: slice | Tensor, queries: Tensor | None = None
    ) -> Tensor:
        """The same as `self(masks[queries])[:, rows, columns]`, without the rest.

        Args:
            masks: (n, h, w) float32 logits.
            rows: not empty, with start and stop.
            columns: such a slice, or ascending indices.
            queries: indices; None for all.
        """
        of_rows = self._stages(masks.shape[1], 0, rows, masks.device)
        of_columns = self._stages(masks.shape[2], 1, columns, masks.device)
        if suits_native(masks) and masks.is_contiguous():
            for down, across in zip(of_rows, of_columns, strict=True):
                masks = torch.ops.segcore_native.mask_window(masks, queries, down, across)
                queries = None
            return masks
        first, last = int(of_rows[0].low[0]), int(of_rows[0].high[-1])
        x = masks[:, first : last + 1]   # the other rows take no part in the pass along them
        x = x if queries is None else x[queries]
        of_rows[0] = of_rows[0].moved(-first)
        for down, across in zip(of_rows, of_columns, strict=True):
            x = _interpolate(_interpolate(x, 2, across), 1, down)
        return x

    def _stages(self, size: int, axis: int, chosen: slice | Tensor, device: torch.device) -> list[_Taps]:
        """What the chosen places of an axis are made of: one resize, or two, of which the first makes only
        the span that the second reads."""
        first = _taps(size, self.padded_size[axis], device)
        if self.image_size == self.output_size:
            return [first.at(chosen)]   # the second resize would change nothing
        second = _taps(self.image_size[axis], self.output_size[axis], device).at(chosen)
        start, end = int(second.low[0]), int(second.high[-1]) + 1
        return [first.at(slice(start, end)), second.moved(-start)]

    def bounds(self, masks: Tensor) -> Bounds:
        """(Q, h, w) logits -> their bounds in each tile: a pixel lies between the least and the greatest of
        the mask cells that its tile reads."""
        least = greatest = masks
        for dim in (1, 2):
            starts, count = self._cells(masks.shape[dim], dim - 1)
            starts = torch.tensor(starts, device=masks.device)
            low, high = least.index_select(dim, starts), greatest.index_select(dim, starts)
            for step in range(1, count):
                torch.minimum(low, least.index_select(dim, starts + step), out=low)
                torch.maximum(high, greatest.index_select(dim, starts + step), out=high)
            least, greatest = low, high
        return Bounds(least - ROUNDING, greatest + ROUNDING)

    def _cells(self, size: int, axis: int) -> tuple[list[int], int]:
        """The first of the mask cells that each tile reads along an axis, and how many (at most) it reads."""
        spans = []
        for start in range(0, self.output_size[axis], TILE):
            stages = self._stages(size, axis, slice(start, start + TILE), torch.device("cpu"))
            spans.append((int(stages[0].low[0]), int(stages[0].high[-1])))
        count = max(last - first for first, last in spans) + 1
        return [min(first, size - count) for first, _ in spans], count

"""Reading masks at points, for the matching and the mask losses (Mask2Former, arXiv:2112.01527, sec. 3.3).

Shapes:  R rows (matched pairs), P points, M targets of an image, L layers of its maps,
         H, W size of the canvas (the padded batch), h, w size of an image or of the mask logits.
Coordinates: x right, y down, in [0, 1] over the canvas, pixel centres at +0.5.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from segcore.masks import LayeredMasks


def sample_logits(logits: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples, zero outside: (N, C, h, w) at (N, P, 2) -> (N, C, P)."""
    return F.grid_sample(logits, 2 * points[:, :, None] - 1, align_corners=False)[..., 0]


@torch.no_grad()
def uncertain_points(logits: Tensor, candidates: Tensor, others: Tensor, count: int) -> Tensor:
    """The candidates whose mask logits are nearest to 0, and some others (PointRend, arXiv:1912.08193).

    Args:
        logits: (R, h, w).
        candidates: (R, N, 2) random points.
        others: (R, P - count, 2) random points that are taken as they are.
        count: how many candidates are taken.

    Returns:
        (R, P, 2); its order means nothing.
    """
    certainty = sample_logits(logits[:, None], candidates)[:, 0].abs()
    nearest = certainty.topk(count, dim=1, largest=False, sorted=False).indices
    chosen = candidates.gather(1, nearest[:, :, None].expand(-1, -1, 2))
    return torch.cat((chosen, others), dim=1)


def _corners(points: Tensor, canvas: Sequence[int], size: Sequence) -> Iterator[tuple[Tensor, Tensor]]:
    """Place y * w + x and weight of the four pixels around each point, as `F.grid_sample` weighs them.

    Outside of the image the weight is 0 and the place some pixel. `size` is (h, w), ints or tensors that
    broadcast against `points[..., 0]`.
    """
    (height, width), (h, w) = canvas, size
    # The arithmetic of grid_sample, which first maps to [-1, 1]: the same rounding.
    x = (2 * points[..., 0] - 1) * (width / 2) + (width - 1) / 2
    y = (2 * points[..., 1] - 1) * (height / 2) + (height - 1) / 2
    left, top = x.floor(), y.floor()
    x, y = x - left, y - top
    left, top = left.long(), top.long()
    for column, x_weight in ((left, 1 - x), (left + 1, x)):
        x_weight = x_weight * ((column >= 0) & (column < w))
        column = column.clamp(min=0).clamp(max=w - 1)
        for row, y_weight in ((top, 1 - y), (top + 1, y)):
            weight = x_weight * y_weight * ((row >= 0) & (row < h))
            yield row.clamp(min=0).clamp(max=h - 1) * w + column, weight


class TargetMasks:
    """The masks of all targets of a batch, never expanded: read where they are asked for.

    Bilinear interpolation of a mask is the sum of the weights of those of the four pixels around a point that
    bear the mask's number.

    Args:
        masks: one per image, on one device.
        canvas: (H, W) of the padded batch, at least as large as each image.
    """

    def __init__(self, masks: Sequence[LayeredMasks], canvas: Sequence[int]) -> None:
        self.masks, self.canvas = list(masks), tuple(canvas)
        self.counts = [len(m) for m in masks]
        dtype = torch.uint8 if all(m.maps.dtype == torch.uint8 for m in masks) else torch.int32
        self.flat = torch.cat([m.maps.flatten().to(dtype) for m in masks])
        starts, first = [], 0
        for m in masks:
            starts.append(m.layer * m.maps[0].numel() + first if len(m) else m.layer)
            first += m.maps.numel()
        self.start, self.number = torch.cat(starts), torch.cat([m.number for m in masks]).to(dtype)
        self.height = torch.cat([torch.full_like(m.layer, m.maps.shape[1]) for m in masks])
        self.width = torch.cat([torch.full_like(m.layer, m.maps.shape[2]) for m in masks])

    def at_shared_points(self, image: int, points: Tensor) -> Tensor:
        """All masks of one image at the same points: (P, 2) -> (M, P) in [0, 1]."""
        masks = self.masks[image]
        maps = masks.maps.flatten(1)
        out = points.new_zeros(len(masks), len(points))
        for place, weight in _corners(points, self.canvas, masks.maps.shape[1:]):
            values = maps[:, place][masks.layer]
            out += (values == masks.number[:, None].to(values.dtype)) * weight
        return out

    def at_points(self, target: Tensor, points: Tensor) -> Tensor:
        """A target per row, numbered through the batch, at the row's own points: (R,), (R, P, 2) -> (R, P)."""
        start, number, h, w = (t[target][:, None] for t in (self.start, self.number, self.height, self.width))
        out = points.new_zeros(points.shape[:2])
        for place, weight in _corners(points, self.canvas, (h, w)):
            out += (self.flat[start + place] == number) * weight
        return out

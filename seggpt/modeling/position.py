"""Position tables of the stitched canvas, for any token grid.

Shapes:  H, W token rows and columns of the canvas (H counts prompt and query), C channels, d per head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class GridTables:
    """What the blocks need to know about one token grid.

    Attributes:
        height, width: token rows and columns of the whole canvas.
        position: (1, H * W, C), the absolute positions, row by row.
        relative: per block, ((H, H, d), (W, W, d)): the vector for query row i and key row j, and
            for the columns likewise.
    """

    height: int
    width: int
    position: Tensor
    relative: tuple[tuple[Tensor, Tensor], ...]


def absolute_positions(table: Tensor, height: int, width: int) -> Tensor:
    """Stretch a square position table over the canvas.

    Args:
        table: (1, 1 + S * S, C); the first entry is the class token's and unused.

    Returns:
        (1, height * width, C) in the table's dtype; bicubic, as ViT detectors do (arXiv:2203.16527).
    """
    side = int((table.shape[1] - 1) ** 0.5)
    square = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    if (side, side) != (height, width):
        # fp32: bicubic weights reach -0.1 and lose a bit per tap in half precision
        square = F.interpolate(square.float(), size=(height, width), mode="bicubic", align_corners=False)
    return square.flatten(2).transpose(1, 2).to(table.dtype)


def relative_positions(table: Tensor, size: int) -> Tensor:
    """Vectors for every pair of coordinates along one axis.

    Args:
        table: (2 * S - 1, d), indexed by the difference query minus key, plus S - 1.
        size: tokens along the axis; a table of another length is resized linearly.

    Returns:
        (size, size, d); entry [i, j] belongs to query coordinate i and key coordinate j.
    """
    length = 2 * size - 1
    if table.shape[0] != length:
        resized = F.interpolate(table.float().t()[None], size=length, mode="linear")
        table = resized[0].t().to(table.dtype)
    axis = torch.arange(size, device=table.device)
    return table[axis[:, None] - axis[None, :] + (size - 1)]
